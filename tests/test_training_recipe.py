"""Recipes: numbers are numbers, unknown keys name the nearest known one, the command line overrides by name."""

from pathlib import Path

import pytest

from training.errors import RunError
from training.recipe import Recipe, apply_overrides, check_keys, load_recipe, parse_value, study_recipes

KNOWN = {
    "model": {"n", "norm", "num_labels"},
    "data": {"path", "seed"},
    "training": {"learning_rate", "seed", "horizontal_flip"},
}


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2E+3", -2000.0),
        ("1.5e2", 150.0),
        (".5e1", 5.0),
        ("3", 3),
        ("0.1", 0.1),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("off", "off"),
        ("null", None),
        ("[0.3, 1.0]", [0.3, 1.0]),
        ("gn", "gn"),
        ("1e4x", "1e4x"),
    ],
)
def test_values_have_the_type_they_look_like(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_a_recipe_reads_back_as_written(tmp_path):
    recipe = Recipe("resnet", "x", {"n": 3}, {"path": None}, {"learning_rate": 1e-4, "crop_area": [0.3, 1.0]})
    read = load_recipe(write(tmp_path, "x.yaml", recipe.to_yaml()))
    assert read.differences(recipe) == []
    assert (read.model_family, read.name) == ("resnet", "x")
    assert type(read.training["learning_rate"]) is float


def test_a_base_is_overridden_by_the_recipe_on_it(tmp_path):
    write(tmp_path, "base.yaml", "model_family: resnet\nmodel: {n: 2, norm: bn}\ntraining: {learning_rate: 1e-1}\n")
    (tmp_path / "study").mkdir()
    recipe = load_recipe(write(tmp_path / "study", "gn.yaml", "base: ../base.yaml\nmodel: {norm: gn}\n"))
    assert recipe.model == {"n": 2, "norm": "gn"}
    assert recipe.training == {"learning_rate": 0.1}
    assert recipe.name == "gn" and recipe.model_family == "resnet"


def test_a_circle_of_bases_ends_in_an_error(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\nmodel_family: resnet\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(RunError, match="circle"):
        load_recipe(tmp_path / "a.yaml")


def test_a_study_is_the_files_of_a_folder_in_order(tmp_path, monkeypatch):
    folder = tmp_path / "norms"
    folder.mkdir()
    for name in ("2_gn.yaml", "1_bn.yaml", "_shared.yaml"):
        write(folder, name, "name:\nmodel_family: resnet\n")
    assert [r.name for r in study_recipes(folder)] == ["norms/1_bn", "norms/2_gn"]
    monkeypatch.chdir(folder)
    assert [r.name for r in study_recipes(Path())] == ["norms/1_bn", "norms/2_gn"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RunError, match="holds no recipe"):
        study_recipes(empty)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_family: resnet\nmodle: {}\n", "did you mean 'model'"),
        ("model: {}\n", "model_family is missing"),
        ("model_family: resnet\nmodel: [1]\n", "model must be a mapping"),
        ("a: [", "not valid YAML"),
        ("just text", "must hold the groups"),
        ("model_family: resnet\nmodel: {n: 1}\nmodel: {n: 2}\n", "'model' is written twice"),
        ("model_family: resnet\nmodel: {1: 2}\n", "model must be a mapping"),
        ("model_family: [resnet]\n", "model_family must be a text"),
        ("model_family: resnet\nname: 5\n", "name must be a text, not 5"),
        ("model_family: resnet\nbase: 5\n", "base must be a text, not 5"),
        ("5: resnet\n", "unknown top-level key 5"),
    ],
)
def test_malformed_recipes_are_named(tmp_path, text, message):
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(RunError, match=message) as caught:
        load_recipe(path)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RunError, match=r"there is no recipe .*nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("group", "key", "hint"),
    [("training", "leaning_rate", "'learning_rate'"), ("model", "path", "belongs under data")],
)
def test_unknown_keys_name_the_nearest_or_the_right_group(group, key, hint):
    recipe = Recipe("resnet", "x", source="some.yaml", **{group: {key: 1}})
    with pytest.raises(RunError, match=hint) as caught:
        check_keys(recipe, KNOWN)
    assert "some.yaml" in str(caught.value)


def test_overrides_reach_their_group_by_name_alias_and_full_name():
    recipe = Recipe("resnet", "x", training={"learning_rate": 0.1})
    arguments = [
        "--learning-rate",
        "1e-3",
        "--r",
        "7",
        "--norm=gn",
        "--data.seed",
        "5",
        "--horizontal_flip",
        "true",
        "--path",
        "-x",
    ]
    apply_overrides(recipe, arguments, KNOWN, {"r": "model.num_labels"})
    assert recipe.model == {"num_labels": 7, "norm": "gn"}
    assert recipe.data == {"seed": 5, "path": "-x"}
    assert recipe.training == {"learning_rate": 1e-3, "horizontal_flip": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nrom", "gn"], "did you mean 'norm'"),
        (["--seed", "1"], "is in data and training; write --data.seed"),
        (["--n"], "--n has no value"),
        (["--n", "--norm"], "--n has no value"),
        (["n", "3"], "an option --key is expected"),
    ],
)
def test_wrong_overrides_say_what_to_write(arguments, message):
    with pytest.raises(RunError, match=message):
        apply_overrides(Recipe("resnet", "x"), arguments, KNOWN)


@pytest.mark.parametrize("text", ["/data/birds #2", "/data/a: b", "2024-01-01", "~/x", "a, b", "n0,n1"])
def test_texts_of_the_command_line_stay_as_they_are(text):
    assert parse_value(text) == text


def test_other_values_of_the_command_line_are_read_as_yaml():
    texts = ["1e-4", "3", "true", "null", "[64, 32]", "{gate: 3.0}", '"12"']
    assert [parse_value(text) for text in texts] == [1e-4, 3, True, None, [64, 32], {"gate": 3.0}, "12"]
