"""A signal while a run trains, evaluates or ends: what was done is saved, and the run goes on from there."""

from functools import partial

import pytest

from tests.small_training import assert_equal_weights, history, small_task, weights
from training import checkpoints
from training import run as run_module
from training import trainer as trainer_module
from training.errors import Terminated
from training.run import execute


@pytest.fixture
def task(tmp_path):
    return partial(small_task, tmp_path / "cache")


def signal_at(step, patch):
    """A SIGTERM arrives while the step after `step` is taken."""
    original = trainer_module.FamilyTrainer.training_step

    def signalled(self, *args, **kwargs):
        if self.state.global_step == step:
            self.stop_on_signal._remember(15, None)
        return original(self, *args, **kwargs)

    patch.setattr(trainer_module.FamilyTrainer, "training_step", signalled)


def test_a_signal_saves_and_stops(task, tmp_path, monkeypatch):
    execute(task(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(3, patch)
        with pytest.raises(Terminated) as stopped:
            execute(task(), tmp_path / "parts")
    assert stopped.value.signum == 15
    assert checkpoints.newest_valid(tmp_path / "parts" / "checkpoints")[0].name == "checkpoint-4"
    execute(task(), tmp_path / "parts")
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert history(tmp_path / "whole") == history(tmp_path / "parts")  # no evaluation of the epoch that was broken off


def test_a_signal_during_an_evaluation_saves_and_stops_after_it(task, tmp_path, monkeypatch):
    original = trainer_module.FamilyTrainer.prediction_step

    def signalled(self, *args, **kwargs):
        self.stop_on_signal._remember(15, None)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(trainer_module.FamilyTrainer, "prediction_step", signalled)
    with pytest.raises(Terminated):
        execute(task(), tmp_path / "run")
    assert checkpoints.newest_valid(tmp_path / "run" / "checkpoints")[0].name == "checkpoint-10"


def test_a_signal_during_the_final_evaluation_stops_after_it(task, tmp_path, monkeypatch):
    execute(task(), tmp_path / "whole")
    original = run_module._evaluate

    def signalled(trainer, split, name):
        trainer.stop_on_signal._remember(15, None)
        return original(trainer, split, name)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_evaluate", signalled)
        with pytest.raises(Terminated):
            execute(task(), tmp_path / "parts")
    assert not (tmp_path / "parts" / "metrics.json").exists()
    execute(task(), tmp_path / "parts")
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


def test_a_signal_at_the_last_step_of_an_epoch_leaves_its_row_in_the_history(task, tmp_path, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 3}
    execute(task(**settings), tmp_path / "whole")
    with monkeypatch.context() as patch:
        signal_at(9, patch)
        with pytest.raises(Terminated):
            execute(task(**settings), tmp_path / "parts")
    execute(task(**settings), tmp_path / "parts")
    assert history(tmp_path / "whole") == history(tmp_path / "parts")
