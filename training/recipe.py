"""Recipes: YAML files in three groups (`model`, `data`, `training`) plus overrides from the command line.

A recipe names its family (`model_family`), may start from another one (`base: ../cifar10.yaml`, this file's
values win), and holds only what differs from the defaults. Keys are checked against the family's own field
names, so a misspelt key is an error that names the nearest known one, never a silently ignored setting.
"""

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from training.errors import RunError

GROUPS = ("model", "data", "training")
TOP_LEVEL = ("model_family", "name", "base", *GROUPS)
MAX_BASES = 8


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars: `1e-4` is a number, and `no` (an `eval_strategy`) is no boolean. A key that
    is written twice in a mapping is an error; PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


_BOOLEAN = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_value(text: str) -> Any:
    """One value from the command line, read as YAML: numbers, booleans, null, [lists], {mappings} and "quoted text".

    Everything else is the text as it stands: a path may hold ` #` or `: `, or look like a date.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # a SafeLoader subclass
    except yaml.YAMLError:
        return text
    wanted = {"[": list, "{": dict, '"': str, "'": str}.get(text.lstrip()[:1], int | float | None)
    return value if isinstance(value, wanted) else text


@dataclass
class Recipe:
    """One experiment: the family, the run's name, and three groups of field values."""

    model_family: str
    name: str
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    source: str = "the command line"

    def to_yaml(self) -> str:
        """The recipe as text that `load_recipe` reads back to the same values."""
        groups = {group: getattr(self, group) for group in GROUPS}
        return yaml.safe_dump({"model_family": self.model_family, "name": self.name, **groups}, sort_keys=False)

    def differences(self, other: "Recipe") -> list[str]:
        """Lines `group.key: mine, other's` for every value that is not the same in both."""
        lines = []
        for group in GROUPS:
            mine, theirs = getattr(self, group), getattr(other, group)
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    lines.append(f"{group}.{key}: {mine.get(key)!r}, was {theirs.get(key)!r}")
        return lines


def _read(path: Path, asked_by: Path | None) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader subclass
    except FileNotFoundError:
        raise RunError(f"there is no recipe {path}{f', the base of {asked_by}' if asked_by else ''}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} must hold the groups {', '.join(GROUPS)}")
    for key in content:
        if key not in TOP_LEVEL:
            raise RunError(f"{path}: unknown top-level key {key!r}; {_nearest(str(key), TOP_LEVEL)}")
    for key in ("model_family", "name", "base"):
        if not isinstance(content.get(key), str | None):
            raise RunError(f"{path}: {key} must be a text, not {content[key]!r}")
    for group in GROUPS:
        content[group] = content.get(group) or {}
        if not isinstance(content[group], dict) or not all(isinstance(key, str) for key in content[group]):
            raise RunError(f"{path}: {group} must be a mapping of field names to values")
    return content


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Read a recipe file and, below it, the recipes it is based on.

    Raises:
        RunError: no such file, not YAML, an unknown top-level key, no `model_family`, or a circle of bases.
    """
    path = Path(path)
    chain, current, asked_by = [], path, None
    while current is not None:
        if len(chain) >= MAX_BASES:
            raise RunError(f"{path}: more than {MAX_BASES} recipes in its chain of bases; is there a circle?")
        content = _read(current, asked_by)
        chain.append(content)
        current, asked_by = current.parent / content["base"] if content.get("base") else None, current
    merged: dict[str, Any] = {group: {} for group in GROUPS}
    for content in reversed(chain):
        for group in GROUPS:
            merged[group].update(content[group])
    family = next((content["model_family"] for content in chain if "model_family" in content), None)
    if family is None:
        raise RunError(f"{path}: model_family is missing (for example `model_family: resnet`)")
    return Recipe(model_family=family, name=chain[0].get("name") or path.stem, source=str(path), **merged)


def study_recipes(folder: Path) -> list[Recipe]:
    """The recipes of a study folder in the order of their file names, each run named `<folder>/<file>`."""
    files = sorted(p for p in folder.glob("*.yaml") if not p.name.startswith("_"))
    if not files:
        raise RunError(f"{folder} holds no recipe (*.yaml)")
    recipes = [load_recipe(file) for file in files]
    for recipe in recipes:
        recipe.name = f"{folder.resolve().name}/{recipe.name}"
    return recipes


def _nearest(key: str, known) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known)[:12])}, ..."


def check_keys(recipe: Recipe, known: dict[str, set[str]]) -> None:
    """Raise a RunError that names the first unknown key, its group and file, and the nearest known key."""
    for group in GROUPS:
        for key in getattr(recipe, group):
            if key in known[group]:
                continue
            elsewhere = [g for g in GROUPS if g != group and key in known[g]]
            hint = f"it belongs under {elsewhere[0]}" if elsewhere else _nearest(key, known[group])
            raise RunError(f"{recipe.source}: unknown key {key!r} under {group}; {hint}")


def apply_overrides(
    recipe: Recipe, arguments: list[str], known: dict[str, set[str]], aliases: dict[str, str] | None = None
) -> None:
    """Set fields from `--key value`, `--key=value` or `--group.key value`; dashes and underscores are the same.

    Args:
        recipe: changed in place.
        arguments: what the command line had besides `train.py`'s own options.
        known: the field names of each group.
        aliases: short names, for example `{"r": "model.num_labels"}`.

    Raises:
        RunError: an unknown key (naming the nearest), a key that two groups share, or a key without a value.
    """
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            raise RunError(f"command line: {token!r} stands where an option --key is expected")
        key, equals, text = token[2:].partition("=")
        if not equals:
            if not tokens or (tokens[0].startswith("--") and len(tokens[0]) > 2):
                raise RunError(f"command line: --{key} has no value")
            text = tokens.pop(0)
        name = key.replace("-", "_")
        name = (aliases or {}).get(name, name)
        group, _, bare = name.rpartition(".")
        homes = [g for g in GROUPS if bare in known[g] and group in ("", g)]
        if not homes:
            raise RunError(f"command line: unknown option --{key}; {_nearest(bare, set().union(*known.values()))}")
        if len(homes) > 1:
            raise RunError(f"command line: --{key} is in {' and '.join(homes)}; write --{homes[0]}.{bare}")
        getattr(recipe, homes[0])[bare] = parse_value(text)
    if arguments:
        recipe.source += " with the command line"
