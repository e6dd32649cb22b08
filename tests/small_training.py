"""A small net on embedded pictures to train for seconds, and what one asks of the runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.recipe import Recipe
from training.resnet import ResNetTask
from training.run import execute
from training.trainer import FamilyTrainer


def small_task(cache: Path, name: str = "run", model: dict | None = None, **training) -> ResNetTask:
    """A ResNetTask of 20 steps (2 epochs) on 80 embedded pictures of 16x16."""
    data = {"image_size": 16, "num_classes": 4, "num_train": 80, "num_val": 31, "num_test": 20}
    data["cache_dir"] = str(cache)
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 16}
    settings |= {"learning_rate": 0.05, "optim": "sgd", "optim_args": "momentum=0.9", "disable_tqdm": True}
    settings |= {"precision": "fp32", "save_strategy": "steps", "save_steps": 7, **training}
    recipe = Recipe("resnet", name, {"n": 1, "widths": [8, 8, 8], "num_groups": 4, **(model or {})}, data, settings)
    return ResNetTask(recipe)


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def history(folder):
    """The rows of history.csv without the clock's."""
    lines = (folder / "history.csv").read_text().splitlines()
    return [line.split(",")[:3] + line.split(",")[4:] for line in lines]


def interrupted(task, folder, at_step, monkeypatch, **options):
    """Run until the checkpoint of `at_step` was written, then die as a kill would leave it."""

    class Killed(BaseException):
        pass

    original = FamilyTrainer._save_checkpoint

    def save_then_die(self, model, trial):
        original(self, model, trial)
        if self.state.global_step >= at_step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FamilyTrainer, "_save_checkpoint", save_then_die)
        with pytest.raises(Killed):
            execute(task, folder, **options)
