"""The run folder `runs/<model>/<name>/`: who may write to it, and what it holds when the run has finished."""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from training import checkpoints
from training.errors import RunError
from training.recipe import Recipe, load_recipe

LOCK = ".lock"
RECIPE = "recipe.yaml"
METRICS = "metrics.json"
DATA = "data.json"
REPLACED = ".replaced"  # the run that `overwrite` deletes, until the new one has come to something
MOVING = ".replaced-moving"  # the same while it is moved: a kill leaves a part of it here, the rest in its place

# Fields that may change between an interrupted run and its continuation without changing what is learned.
FREE_TO_CHANGE = {
    "training": {
        "logging_steps", "report_to", "disable_tqdm", "dataloader_num_workers", "save_total_limit", "keep_checkpoints",
        "per_device_eval_batch_size", "log_level", "dataloader_pin_memory", "dataloader_persistent_workers",
    },
    "data": {"cache_dir"},
}  # fmt: skip


class RunFolder:
    """One run's folder. Use `with folder.locked():` round everything that writes."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoint_root = self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """A run is finished when its metrics are there; they are written last."""
        return (self.path / METRICS).is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock; a second run or evaluation that writes to it gets a RunError. Freed by the kernel on
        any exit.

        An error that ends the run before its first checkpoint undoes it: a folder that this call made is removed, and
        a run that `overwrite` set aside comes back, so that bad input leaves no run behind and loses none; not where
        the folder holds a report of non-finite values or the final weights.
        """
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"another run or evaluation is writing to {self.path}; wait for it or choose another --name"
                ) from None
            try:
                yield
            except BaseException:
                self._settle_replaced()
                if made and not self._worth_keeping():
                    shutil.rmtree(self.path)
                raise
            self._settle_replaced()

    def _worth_keeping(self) -> bool:
        made = [self.path / checkpoints.MANIFEST, *self.path.glob("non_finite_*.json")]
        return any(path.is_file() for path in made) or bool(checkpoints.checkpoints_in(self.checkpoint_root))

    def _set_aside(self) -> None:
        """Move what is there out of the way of a new run."""
        (self.path / MOVING).mkdir()
        for entry in self._entries():
            entry.rename(self.path / MOVING / entry.name)
        (self.path / MOVING).rename(self.path / REPLACED)

    def _settle_replaced(self) -> None:
        """Delete the run that was set aside, or bring it back where the new one has come to nothing."""
        replaced, moving = self.path / REPLACED, self.path / MOVING
        if replaced.is_dir() and self._worth_keeping():
            shutil.rmtree(replaced)
        elif replaced.is_dir():
            for entry in self._entries():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            replaced.rename(moving)
        if moving.is_dir():
            for entry in moving.iterdir():
                entry.rename(self.path / entry.name)
            moving.rmdir()

    def _entries(self) -> list[Path]:
        return [entry for entry in self.path.iterdir() if entry.name not in (LOCK, REPLACED, MOVING)]

    def differences(self, recipe: Recipe) -> list[str]:
        """In what `recipe` is another experiment than the one that the folder holds: lines, none if it is the same."""
        return recipe.differences(_without_free(load_recipe(self.path / RECIPE), recipe))

    def check_same(self, recipe: Recipe) -> None:
        """Raise a RunError if the folder holds another experiment than `recipe`."""
        differences = self.differences(recipe) if (self.path / RECIPE).is_file() else []
        if differences:
            raise RunError(
                f"{self.path} holds another experiment ({'; '.join(differences[:4])}); "
                "choose another --name, or --overwrite to delete it"
            )

    def claim(self, recipe: Recipe, data: dict[str, Any], *, overwrite: bool = False) -> None:
        """Make the folder this recipe's: fresh, or the same experiment's continuation.

        Args:
            recipe: the experiment.
            data: what [`training.digests.data_digests`] says of its splits; kept in `data.json`.
            overwrite: a run that is there is set aside, and deleted if this one ends with a checkpoint or its weights.

        Raises:
            RunError: the folder holds another experiment, other runs in folders of its own, or files that are no run
                at all, or lies in the folder of a run (these three stop `overwrite`, too); or the data have changed
                since the run began.
        """
        self._settle_replaced()  # of a run that was killed
        saved = self.path / RECIPE
        if outer := next((p for p in self.path.parents if (p / RECIPE).is_file() and (p / DATA).is_file()), None):
            raise RunError(f"{self.path} lies in another run, {outer}; choose another --name")
        if not saved.is_file() and self._entries():
            raise RunError(f"{self.path} is not empty and holds no {RECIPE}; choose another --name")
        if inner := next(self.path.glob(f"*/**/{RECIPE}"), None):
            raise RunError(f"{self.path} holds another run, {inner.parent}; choose another --name")
        if overwrite:
            self._set_aside()
        else:
            self.check_same(recipe)
            check_data(self.path, data)
        checkpoints.remove_stale_staging(self.path)
        if self.checkpoint_root.is_dir():
            checkpoints.remove_stale_staging(self.checkpoint_root)
        _replace(saved, recipe.to_yaml())  # first: without it the folder would count as no run
        _replace(self.path / DATA, json.dumps(data, indent=1) + "\n")

    def publish_model(self, model: PreTrainedModel, processor: Any, weights: dict[str, Any] | None = None) -> None:
        """Put the final weights, config, code and processor into the folder: staged, sealed, then moved in. `weights`
        are given where the model does not hold them whole."""
        staging = checkpoints.staging_folder(self.path, "model")
        with checkpoints.naming_write_errors(f"the model in {self.path}"):
            staging.mkdir(exist_ok=True)
            model.save_pretrained(staging, state_dict=weights)
            processor.save_pretrained(staging)
            names = sorted(p.name for p in staging.iterdir())
            checkpoints.write_manifest(staging)  # flushes every file before any of them is moved
            for name in names:
                (staging / name).replace(self.path / name)
            (staging / checkpoints.MANIFEST).replace(self.path / checkpoints.MANIFEST)
            shutil.rmtree(staging)

    def write_metrics(self, content: dict[str, Any]) -> None:
        """Write `metrics.json`, by which the run counts as finished."""
        _replace(self.path / METRICS, json.dumps(content, indent=1) + "\n")

    def drop_checkpoints(self) -> None:
        """Delete the resumable checkpoints of a finished run."""
        if self.checkpoint_root.is_dir():
            shutil.rmtree(self.checkpoint_root)


def check_data(folder: Path, data: dict[str, Any]) -> None:
    """Raise a RunError if a split is another than when the run in `folder` began, as far as its `data.json` tells."""
    if not (folder / DATA).is_file():
        return
    try:
        began = dict(json.loads((folder / DATA).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise RunError(
            f"{folder / DATA} is damaged, which tells the data that the run began with: delete it to trust these"
        ) from None
    for split, found in data.items():
        if split in began and found != began[split]:
            now, then = found["samples"], began[split]["samples"]
            raise RunError(
                f"{folder}: the data have changed since this run began: {split} has {now} samples and had {then}, or "
                "their paths or labels differ. Restore the data, or train again under another --name"
            )


def _without_free(saved: Recipe, new: Recipe) -> Recipe:
    """The saved recipe with the new one's values where a change does no harm."""
    for group, keys in FREE_TO_CHANGE.items():
        mine, theirs = getattr(saved, group), getattr(new, group)
        for key in keys:
            mine.pop(key, None)
            if key in theirs:
                mine[key] = theirs[key]
    return saved


def _replace(path: Path, text: str) -> None:
    """Write a file so that after a crash either the old or the new text is there."""
    temporary = path.with_name(f".{path.name}.part")
    with checkpoints.naming_write_errors(str(path)):
        temporary.write_text(text, encoding="utf-8")
        checkpoints.fsync(temporary)
        temporary.replace(path)
