"""The shared Trainer on a small net and the embedded pictures: resuming, failing, averaging, grouping."""

import errno
import json
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.small_training import assert_equal_weights, history, interrupted, small_task, weights
from training import checkpoints
from training import run as run_module
from training.callbacks import MovingAverage
from training.errors import CheckpointError, NonFiniteError, RunError
from training.run import build_trainer, execute
from training.run_folder import RunFolder
from training.trainer import FamilyTrainer

AUGMENTED = {"crop_padding": 2, "horizontal_flip": True, "color_jitter": 0.3, "mixup": 0.3, "ema_decay": 0.9}


@pytest.fixture
def task(tmp_path):
    return partial(small_task, tmp_path / "cache")


def test_a_resumed_run_with_augmentation_equals_the_uninterrupted_one_bit_for_bit(task, tmp_path, monkeypatch):
    execute(task(**AUGMENTED), tmp_path / "whole")
    interrupted(task(**AUGMENTED), tmp_path / "parts", 7, monkeypatch)  # in the first epoch
    interrupted(task(**AUGMENTED), tmp_path / "parts", 14, monkeypatch)  # in the second
    torch.rand(5)  # the global generator's position does not matter
    execute(task(**AUGMENTED), tmp_path / "parts")
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


def test_another_seed_gives_other_weights(task, tmp_path):
    execute(task(**AUGMENTED), tmp_path / "a")
    execute(task(**AUGMENTED, seed=7), tmp_path / "b")
    assert not torch.equal(*(weights(tmp_path / n)["classifier.weight"] for n in "ab"))


def test_a_damaged_checkpoint_is_passed_over_and_the_result_the_same(task, tmp_path, monkeypatch, capsys):
    execute(task(**AUGMENTED), tmp_path / "whole")
    folder = tmp_path / "parts"
    interrupted(task(**AUGMENTED), folder, 14, monkeypatch)
    newest = folder / "checkpoints" / "checkpoint-14" / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-100] ^= 4
    newest.write_bytes(data)
    execute(task(**AUGMENTED), folder)
    said = capsys.readouterr().err
    assert "passed over checkpoint-14: model.safetensors is damaged" in said
    assert "resuming from" in said and "checkpoint-7" in said
    assert_equal_weights(weights(tmp_path / "whole"), weights(folder))


def test_a_full_disk_while_saving_is_named_and_the_run_resumes(task, tmp_path, monkeypatch):
    execute(task(), tmp_path / "whole")
    folder = tmp_path / "parts"
    original = torch.save

    def full_disk(state, path, *args, **kwargs):
        if "checkpoint-14" in str(path) and str(path).endswith("optimizer.pt"):
            Path(path).write_bytes(b"half")  # half of the file arrives
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(state, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(CheckpointError, match=r"checkpoint-14 was not written.*No space left"):
            execute(task(), folder)
    valid, passed_over = checkpoints.newest_valid(folder / "checkpoints")
    assert valid.name == "checkpoint-7" and passed_over == []
    execute(task(), folder)
    assert_equal_weights(weights(tmp_path / "whole"), weights(folder))
    assert not list(folder.rglob(".staging*"))


def test_a_checkpoint_of_another_config_is_refused(task, tmp_path, monkeypatch):
    interrupted(task(), tmp_path / "run", 7, monkeypatch)
    other = task(model={"norm": "gn"})
    trainer = build_trainer(other, other.build_model(), tmp_path / "other")
    with pytest.raises(CheckpointError, match="norm='bn', this run has 'gn'"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / "checkpoint-7"))


def test_a_folder_of_another_experiment_is_refused_and_kept(task, tmp_path, monkeypatch):
    interrupted(task(), tmp_path / "run", 7, monkeypatch)
    with pytest.raises(RunError, match=r"holds another experiment \(model.norm: 'gn', was None"):
        execute(task(model={"norm": "gn"}), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-7").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty"):
        execute(task(), tmp_path / "mine")
    with pytest.raises(RunError, match="is not empty"):
        execute(task(), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_overwriting_a_run_deletes_no_other_run_in_it(task, tmp_path):
    execute(task(), tmp_path / "study")
    with pytest.raises(RunError, match=r"inner lies in another run, .*study; choose another --name"):
        execute(task(), tmp_path / "study" / "inner")  # no evaluation of all runs would find it
    assert not (tmp_path / "study" / "inner").exists()
    shutil.copytree(tmp_path / "study", tmp_path / "study" / "inner")
    with pytest.raises(RunError, match=r"holds another run, .*inner"):
        execute(task(seed=1), tmp_path / "study", overwrite=True)
    assert weights(tmp_path / "study") and weights(tmp_path / "study" / "inner")


@pytest.mark.parametrize("killed", [False, True])
def test_overwriting_that_fails_before_a_checkpoint_keeps_the_run(task, tmp_path, monkeypatch, killed):
    execute(task(), tmp_path / "run")
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}

    def full(*args):
        raise MemoryError

    monkeypatch.setattr("training.run._train", full)
    if killed:  # before it could bring back what it had set aside
        monkeypatch.setattr("training.run_folder.RunFolder._settle_replaced", lambda self: None)
    with pytest.raises(RunError, match=r"out of memory: lower training\.per_device_train_batch_size"):
        execute(task(seed=1), tmp_path / "run", overwrite=True)
    if killed:
        assert not (tmp_path / "run" / "metrics.json").exists()
        monkeypatch.undo()
        with pytest.raises(RunError, match="holds another experiment"):
            execute(task(seed=1), tmp_path / "run")
    found = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    assert found == there | {".lock": found[".lock"]}


def test_a_kill_while_a_run_is_set_aside_or_brought_back_loses_nothing(task, tmp_path, monkeypatch):
    execute(task(), tmp_path / "run")
    folder, there = RunFolder(tmp_path / "run"), sorted(path.name for path in (tmp_path / "run").iterdir())
    rename, left = Path.rename, []

    def killed_later(path, target):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return rename(path, target)

    for moves in range(len(there)):
        for act in (folder._set_aside, folder._settle_replaced):
            left[:] = [None] * moves
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Path, "rename", killed_later)
                act()
            folder._settle_replaced()  # as the next run begins
            assert sorted(path.name for path in (tmp_path / "run").iterdir()) == there
            folder._set_aside()  # to be brought back, in the second round
        folder._settle_replaced()


def test_overwriting_replaces_the_run_once_the_new_one_has_a_checkpoint(task, tmp_path, monkeypatch):
    execute(task(), tmp_path / "run")
    interrupted(task(seed=1), tmp_path / "run", 7, monkeypatch, overwrite=True)
    assert not (tmp_path / "run" / ".replaced").exists() and not (tmp_path / "run" / "metrics.json").exists()
    execute(task(seed=1), tmp_path / "run")
    assert "seed: 1" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_overwriting_with_settings_that_do_not_work_keeps_the_run(task, tmp_path):
    execute(task(), tmp_path / "run")
    for settings, message in (
        ({"lr_multipliers": {"nosuch": 2.0}}, "names 'nosuch'"),
        ({"lr_scheduler_kwargs": {"nosuch": 2.0}}, "argument 'nosuch'"),
        ({"report_to": "comet_ml"}, "comet"),
        ({"optim": "adamw_bnb_8bit", "optim_args": None}, "bitsandbytes"),
        ({"metric_for_best_model": "accuracy"}, "'accuracy', which is not measured: it must begin with one of train_"),
    ):
        with pytest.raises(RunError, match=message):
            execute(task(**settings), tmp_path / "run", overwrite=True)
    assert weights(tmp_path / "run") and (tmp_path / "run" / "metrics.json").is_file()


def test_final_weights_stay_where_the_run_is_stopped_behind_them(task, tmp_path, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.run_folder.RunFolder.write_metrics", stopped)
    with pytest.raises(KeyboardInterrupt):
        execute(task(save_strategy="no"), tmp_path / "run")
    assert weights(tmp_path / "run")


def test_a_finished_run_is_not_trained_again(task, tmp_path):
    assert execute(task(), tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert not execute(task(), tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_samples(task, tmp_path, monkeypatch):
    seen = {}
    original = FamilyTrainer.compute_loss

    def poisoned(self, model, inputs, *args, **kwargs):
        if self.state.global_step == 5 and model.training:
            seen["before"] = {k: v.clone() for k, v in self.model.state_dict().items() if "running" not in k}
            seen["ids"] = list(self._sample_ids)
            seen["trainer"] = self
            inputs = {**inputs, "pixel_values": inputs["pixel_values"] * float("nan")}
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(FamilyTrainer, "compute_loss", poisoned)
    with pytest.raises(NonFiniteError, match="loss is nan at step 5"):
        execute(task(model={"norm": "gn"}), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "non_finite_0.json").read_text())
    assert report["sample_ids"] == seen["ids"] and len(set(report["sample_ids"])) == 8
    after = seen["trainer"].model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in seen["before"].items())


def test_a_gradient_that_is_not_finite_stops_the_run(task, tmp_path, monkeypatch):
    trainer = build_trainer(t := task(), t.build_model(), tmp_path / "run")
    parameter = next(trainer.model.parameters())
    parameter.register_hook(lambda g: g * float("inf"))
    before = parameter.detach().clone()
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(NonFiniteError, match="gradient norm"):
        trainer.train()
    assert torch.equal(parameter, before)
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_groups_have_their_own_rate_and_decay(task, tmp_path):
    t = task(model={"norm": "bin"}, weight_decay=0.01, lr_multipliers={"gate": 10.0})
    trainer = build_trainer(t, t.build_model(), tmp_path / "run")
    groups = {g["name"]: g for g in trainer.create_optimizer().param_groups}
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "decay": (0.05, 0.01),
        "no_decay": (0.05, 0.0),
        "gate": (0.5, 0.0),
    }
    in_groups = sum(p.numel() for g in groups.values() for p in g["params"])
    assert in_groups == trainer.model.num_parameters()
    assert all(p.dim() > 1 for p in groups["decay"]["params"])


def test_gates_stay_in_their_range_while_training(task, tmp_path):
    execute(task(model={"norm": "bin"}, learning_rate=1.0), tmp_path / "run")
    gates = torch.cat([v for k, v in weights(tmp_path / "run").items() if k.endswith("gate")])
    assert gates.min() >= 0 and gates.max() <= 1 and gates.min() < 1


def test_the_moving_average_is_the_recursion_written_out():
    model = torch.nn.BatchNorm1d(2)
    average = MovingAverage(model, 0.9)
    expected = None
    for t in range(30):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2))
            model.running_mean.copy_(torch.randn(2))
        average.update()
        decay = min(0.9, (1 + t) / (10 + t))
        if expected is None:
            expected = model.weight.detach().clone()
        else:
            expected = decay * expected + (1 - decay) * model.weight.detach()
    kept = model.weight.detach().clone()
    average.swap()
    assert torch.allclose(model.weight, expected, atol=1e-6)
    average.swap()
    assert torch.equal(model.weight, kept)


def test_an_average_of_weights_and_sharded_weights_do_not_go_together(task, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RunError, match="FSDP splits them"):
        task(ema_decay=0.9)


def test_several_processes_evaluate_the_running_statistics_of_the_first(task, tmp_path, monkeypatch):
    t = task(precision="fp32")
    trainer = build_trainer(t, t.build_model(), tmp_path / "run")
    monkeypatch.setattr("training.arguments.RunArguments.world_size", property(lambda self: 2))
    monkeypatch.setattr("torch.distributed.broadcast", lambda tensor, src: tensor.fill_(7 + src))  # of the first one
    seen = []
    monkeypatch.setattr("transformers.Trainer.evaluation_loop", lambda self: seen.extend(self.model.buffers()))
    trainer.evaluation_loop()
    assert len(seen) > 2 and all((buffer == 7).all() for buffer in seen)


def test_one_process_with_several_gpus_is_refused(task, monkeypatch):
    monkeypatch.setattr("training.arguments.RunArguments.n_gpu", property(lambda self: 2))
    with pytest.raises(RunError, match=r"one process sees 2 GPUs: .*--multi_gpu"):
        task()


def test_early_stopping_ends_the_run_at_its_best_model(task, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/opt/train.py", "--path", "/home/birds6.tar"])
    t = task(
        early_stopping_patience=1,
        num_train_epochs=30,
        learning_rate=0.0,  # nothing improves, so the second evaluation is the last
        save_strategy="epoch",
        metric_for_best_model="val_accuracy",
    )
    execute(t, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert facts["training"]["epochs"] == 2.0 and facts["training"]["command"] == "train.py --path birds6.tar"


def test_a_run_killed_after_its_early_stop_does_not_train_on(task, tmp_path, monkeypatch):
    settings = {"early_stopping_patience": 1, "num_train_epochs": 9, "save_strategy": "epoch", "ema_decay": 0.5}
    settings |= {"metric_for_best_model": "val_loss", "greater_is_better": True}  # worse is better: it stops soon
    execute(task(**settings), tmp_path / "whole")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.run._publish", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(task(**settings), tmp_path / "parts")
    history = (tmp_path / "parts" / "history.csv").read_text()
    execute(task(**settings), tmp_path / "parts")
    assert (tmp_path / "parts" / "history.csv").read_text() == history
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    whole, parts = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "parts"))
    assert whole["metrics"] == parts["metrics"] and whole["training"]["steps"] == parts["training"]["steps"] < 90
    assert parts["training"]["seconds"] > 0


def test_the_best_model_is_found_where_the_run_was_moved_before_its_end(task, tmp_path, monkeypatch):
    settings = {"save_strategy": "epoch", "load_best_model_at_end": True, "eval_strategy": "epoch"}
    settings |= {"metric_for_best_model": "val_loss", "greater_is_better": True}  # the first epoch's is the worst
    execute(task(**settings), tmp_path / "whole")
    interrupted(task(**settings), tmp_path / "first", 20, monkeypatch)
    (tmp_path / "first").rename(tmp_path / "moved")
    execute(task(**settings), tmp_path / "moved")
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "moved"))
    rows = [json.loads(line) for line in [(tmp_path / "moved" / "metrics.json").read_text()]]
    assert rows[0]["training"]["steps"] == 20


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("val_mean_squared_error", False), ("val_reconstruction_mse", False), ("val_loss", False), ("val_accuracy", True)],
)
def test_an_error_is_better_where_it_is_smaller(task, metric, greater):
    made = task(metric_for_best_model=metric, load_best_model_at_end=True, eval_strategy="epoch", save_strategy="epoch")
    assert made.arguments.greater_is_better is greater


def test_a_checkpoint_of_another_number_of_processes_is_refused(task, tmp_path, monkeypatch):
    interrupted(task(), tmp_path / "run", 7, monkeypatch)
    trainer = build_trainer(t := task(), t.build_model(), tmp_path / "run")
    monkeypatch.setattr(type(t.arguments), "world_size", property(lambda self: 2))
    with pytest.raises(CheckpointError, match=r"checkpoint-7 was made by 1 process\(es\), this run has 2"):
        trainer._load_from_checkpoint(str(tmp_path / "run" / "checkpoints" / "checkpoint-7"))


def test_early_stopping_on_a_metric_that_does_not_exist_is_an_error(task, tmp_path):
    t = task(early_stopping_patience=1, metric_for_best_model="val_acuracy", save_strategy="epoch")
    with pytest.raises(RunError, match=r"'val_acuracy', which is not measured; known are .*val_accuracy"):
        execute(t, tmp_path / "run")


def test_few_steps_for_a_recipe_that_counts_them_are_said(task, tmp_path, capsys):
    execute(task(warmup_steps=100, eval_strategy="steps", eval_steps=50), tmp_path / "few")
    said = "warning: this training has 20 steps, all of them in the warm-up (training.warmup_steps is 100; 0.05 is a "
    assert said + "share), and no evaluation before the end (training.eval_steps is 50" in capsys.readouterr().err
    execute(task(warmup_steps=0.1, eval_strategy="steps", eval_steps=0.5), tmp_path / "enough")
    assert "warning: this training" not in capsys.readouterr().err


def test_a_training_split_smaller_than_a_batch_is_an_error_that_leaves_nothing(task, tmp_path):
    with pytest.raises(RunError, match="80 samples, fewer than one batch of 100"):
        execute(task(per_device_train_batch_size=100), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_value_per_channel_is_an_error(task, tmp_path):
    t = task(model={"norm": "bn"}, per_device_train_batch_size=1, train_size=8, num_train_epochs=1)
    t.recipe.model["widths"] = [8, 8, 8]
    model = t.build_model()
    with pytest.raises(ValueError, match="one value per channel"):
        model(torch.zeros(1, 3, 1, 1))


def test_tensorboard_writes_into_the_run_folder_and_stays(task, tmp_path):
    execute(task(report_to="tensorboard"), tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").rglob("*tfevents*"))


def test_two_runs_into_one_folder(task, tmp_path):
    from training.run_folder import RunFolder

    with RunFolder(tmp_path / "run").locked(), pytest.raises(RunError, match="another run or evaluation is writing to"):
        execute(task(), tmp_path / "run")
    assert (tmp_path / "run").is_dir()  # the first run's folder is not the second one's to remove
    shutil.rmtree(tmp_path / "run")


def test_a_damaged_record_of_the_data_is_named(task, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(task(), tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text("")
    with pytest.raises(RunError, match=r"data.json is damaged.*delete it"):
        execute(task(), tmp_path / "run")


def test_a_multiplier_of_another_group_leaves_the_gates_own(task):
    assert task(lr_multipliers={"no_decay": 2.0}).arguments.lr_multipliers == {"gate": 10.0, "no_decay": 2.0}
