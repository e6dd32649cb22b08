"""The Slot Attention task on a small net and embedded scenes of 16x16."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import coursework_folder, save_scene
from sklearn.metrics import adjusted_rand_score

import train
from data.clevrtex import masks_of, pixels_of
from data.image_folder import DataError
from tests.small_scenes import DATA, assert_equal_weights
from tests.two_processes import train_on_two
from training.augmentation import sample_generator
from training.errors import RunError
from training.recipe import Recipe, load_recipe
from training.run import build_trainer, execute
from training.slot_noise import EVALUATION_STREAM, slot_noise
from training.slotattn import SlotAttentionTask
from training.trainer import FamilyTrainer

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "preset": "tiny",
    "num_slots": 4,
    "slot_size": 8,
    "mlp_hidden_size": 12,
    "encoder_channels": [6, 8],
    "encoder_strides": [2, 1],
    "input_size": 10,
    "decoder_resolution": 4,
    "decoder_channels": [8, 6],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def task(cache):
    """Makes a SlotAttentionTask of 6 steps (2 epochs) on 24 embedded scenes."""

    def make(model=None, data=None, **training):
        fields = {**DATA, "cache_dir": str(cache), **(data or {})}
        settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 4}
        settings |= {"learning_rate": 2e-3, "optim": "adamw_torch", "disable_tqdm": True, "precision": "fp32"}
        settings |= {"save_strategy": "steps", "save_steps": 2, **training}
        return SlotAttentionTask(Recipe("slotattn", "run", {**SMALL, **(model or {})}, fields, settings))

    return make


def test_a_resumed_run_with_sampled_slots_equals_the_uninterrupted_one(task, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    original = FamilyTrainer._save_checkpoint

    def save_then_die(self, model, trial):
        original(self, model, trial)
        raise Killed

    often = {"ema_decay": 0.9}
    execute(task(**often), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(FamilyTrainer, "_save_checkpoint", save_then_die)
        for _ in range(2):  # dies at step 2 and at step 4
            with pytest.raises(Killed):
                execute(task(**often), tmp_path / "parts")
    torch.rand(3)
    execute(task(**often), tmp_path / "parts")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_noise_is_a_function_of_seed_stream_and_sample(task):
    made = task()
    rows = [made.datasets["train"][i] for i in range(5)]
    epoch = torch.zeros((), dtype=torch.int64)
    train, evaluate = made.collator(epoch), made.collator()
    first = train(rows)["slot_noise"]
    assert first.shape == (5, 4, 8)
    assert torch.equal(train(rows[3:])["slot_noise"], first[3:])  # whatever the batch
    assert not torch.equal(evaluate(rows)["slot_noise"], first)
    fixed = evaluate(rows)["slot_noise"]
    epoch.fill_(1)
    assert not torch.equal(train(rows)["slot_noise"], first)
    assert torch.equal(evaluate(rows)["slot_noise"], fixed)
    assert not torch.equal(task(seed=1).collator()(rows)["slot_noise"], fixed)
    expected = sample_generator(42, EVALUATION_STREAM, rows[2]["id"]).standard_normal((4, 8), dtype=np.float32)
    assert np.array_equal(fixed[2].numpy(), expected)
    assert "slot_noise" not in task({"slot_init": "learned"}).collator(epoch)(rows)
    many = slot_noise(range(4000), 3, 4, 8, 0)
    assert abs(many.mean().item()) < 0.02 and abs(many.std().item() - 1) < 0.02


def test_a_batch_holds_pixels_in_minus_one_to_one_and_masks_only_in_evaluation(task):
    made = task()
    rows = [made.datasets["val"][i] for i in range(3)]
    batch = made.collator()(rows)
    pixels = pixels_of(rows)
    restored = ((batch["pixel_values"].permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
    assert np.array_equal(restored, pixels) and batch["pixel_values"].min() < -0.2
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(batch["true_masks"].numpy(), masks_of(rows))
    assert "true_masks" not in made.collator(torch.zeros((), dtype=torch.int64))(rows)


@pytest.mark.parametrize("eval_batch", [4, 7])
def test_the_metrics_of_an_evaluation_are_those_of_each_scene_alone(task, tmp_path, eval_batch):
    made = task(per_device_eval_batch_size=eval_batch)
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    split = made.datasets["val"]
    result = trainer.evaluate(eval_dataset=split, metric_key_prefix="eval")
    losses, everything, foreground = [], [], []
    trainer.model.eval()
    for row in split:
        batch = made.collator()([row])
        with torch.no_grad():
            output = trainer.model(batch["pixel_values"], slot_noise=batch["slot_noise"])
        losses.append((output.reconstruction - batch["pixel_values"]).square().sum().item() / 16**2)
        predicted, true = output.masks[0].argmax(0).numpy().ravel(), masks_of(row).ravel()
        everything.append(adjusted_rand_score(true, predicted))
        foreground.append(adjusted_rand_score(true[true > 0], predicted[true > 0]))
    assert result["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["eval_adjusted_rand_index"] == pytest.approx(np.mean(everything), abs=1e-9)
    assert result["eval_foreground_adjusted_rand_index"] == pytest.approx(np.mean(foreground), abs=1e-9)


def test_pictures_without_masks_train_and_have_a_loss(task, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    data = {"path": str(folder), "missing_masks": "allow", "max_objects": 3, "val_fraction": 0.25}
    execute(task(data=data, per_device_train_batch_size=4), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    assert set(facts["val"]) == {"loss"} and facts["val"]["loss"] > 0
    assert list((tmp_path / "run" / "progress").glob("*.png"))


def test_the_loss_falls_and_pictures_are_drawn_as_training_goes(task, tmp_path):
    often = {"num_train_epochs": 12, "save_strategy": "no", "eval_strategy": "epoch", "report_to": "tensorboard"}
    made = task(data={"num_train": 32}, **often, learning_rate=5e-3)
    execute(made, tmp_path / "run")
    history = [line.split(",") for line in (tmp_path / "run" / "history.csv").read_text().splitlines()]
    columns = dict(zip(history[0], range(len(history[0])), strict=True))
    losses = [float(row[columns["loss"]]) for row in history[1:] if row[columns["split"]] == "val"]
    pixels = pixels_of(made.datasets["val"][:]) / 127.5 - 1
    one_colour = pixels.var(axis=(0, 1, 2)).sum()  # the least loss of one and the same colour everywhere
    assert len(losses) == 12 and losses[-1] < one_colour < losses[0]
    assert {"adjusted_rand_index", "foreground_adjusted_rand_index"} <= columns.keys()
    drawn = sorted((tmp_path / "run" / "progress").glob("*.png"))
    assert [path.name for path in drawn[:2]] == ["step_000004.png", "step_000008.png"] and len(drawn) == 12
    first, last = (np.asarray(Image.open(path)).astype(float) for path in (drawn[0], drawn[-1]))
    assert np.array_equal(first[:, :190], last[:, :190])  # images and true masks, the same scenes every time
    assert not np.array_equal(first, last)
    events = list((tmp_path / "run" / "tensorboard").rglob("events*"))
    assert b"reconstruction" in events[0].read_bytes()


def test_pictures_can_be_left_out(task, tmp_path):
    execute(task(progress_pictures=0, num_train_epochs=1, save_strategy="no"), tmp_path / "run")
    assert not (tmp_path / "run" / "progress").exists()


def test_the_rate_warms_up_and_is_halved_smoothly(task, tmp_path):
    made = task(halve_lr_every=6, warmup_steps=3, lr_scheduler_type="constant_with_warmup", learning_rate=1.0)
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    trainer.create_optimizer_and_scheduler(100)
    rates = []
    for _ in range(19):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    expected = [min(1, step / 3) * 2 ** (-step / 6) for step in range(19)]
    assert rates == pytest.approx(expected)
    assert rates[18] == pytest.approx(rates[12] / 2) == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("model", "data", "training", "message"),
    [
        ({"image_size": 32, "decoder_resolution": 8}, {}, {}, "model.image_size is 32, but data.image_size is 16"),
        (
            {"num_slots": 3},
            {},
            {},
            r"num_slots is 3, but .*3 objects.*at least 4, or data.max_objects_drawn to 2",
        ),
        ({"num_slots": 0}, {}, {}, "num_slots=0"),
        ({"preset": "smal"}, {}, {}, "did you mean 'small'"),
        ({}, {"difficulty": "easy"}, {}, "difficulty must be one of"),
        ({}, {}, {"progress_pictures": -1}, "training.progress_pictures must be in"),
        ({}, {}, {"halve_lr_every": -1}, "training.halve_lr_every must be 0 or more"),
        ({}, {}, {"halve_lr_every": 5}, "training.halve_lr_every goes with lr_scheduler_type constant_with_warmup"),
        ({}, {}, {"metric_for_best_model": "val_accuracy", "load_best_model_at_end": True}, None),
    ],
)
def test_wrong_settings_are_named(task, tmp_path, model, data, training, message):
    if message is None:
        with pytest.raises(RunError, match=r"which is not measured; known are .*foreground_adjusted_rand_index"):
            execute(
                task(model, data, **{"save_steps": 6, "eval_strategy": "steps", "eval_steps": 6, **training}), tmp_path
            )
        return
    with pytest.raises(RunError, match=message):
        task(model, data, **training)


@pytest.mark.parametrize("family", ["slotattn", "slotdiff"])
def test_the_readmes_command_for_own_scenes_fits_them(family, tmp_path, monkeypatch):
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if f"| `{family}` |" in line)
    command = re.search(r"`train.py (--recipe [^`]*)`", row)[1].replace("FOLDER", str(tmp_path / "own"))
    torch.save({}, tmp_path / "vae.pth")
    arguments = shlex.split(command.replace("VAE", str(tmp_path / "vae.pth")))
    coursework_folder(tmp_path / "own")
    monkeypatch.chdir(ROOT)
    task = train.build_task(load_recipe(arguments[1]), [*arguments[2:], "--cache_dir", str(tmp_path / "cache")])
    assert task.config.num_slots == 7 and task.recipe.data["max_objects"] == 6  # as the run folder will say
    assert {name: len(split) for name, split in task.datasets.items()} == {"train": 4, "val": 3}


def test_own_scenes_of_more_objects_than_slots_are_named(task, tmp_path):
    folder = coursework_folder(tmp_path / "own")
    own = {"path": str(folder)}
    assert len(task({"num_slots": 5}, own).datasets["train"]) == 4  # of four objects each
    with pytest.raises(DataError, match=r"train/0.png: mask has ids from 0 to 4, allowed are 0 to 3(.|\n)*num_slots"):
        _ = task({"num_slots": 4}, own).datasets
    for split, number in (("train", 4), ("val", 5)):
        save_scene(folder, split, number, np.full((32, 48), 3, dtype=np.uint8))
    skipping = task({"num_slots": 4}, {**own, "too_many": "skip"}).datasets
    assert [split["id"][:] for split in skipping.values()] == [[4], [5]]
    with pytest.raises(RunError, match=r"num_slots is 4, but .*9 objects.*at least 10, or data.max_objects to 3"):
        task({"num_slots": 4}, {**own, "max_objects": 9})
    assert "max_objects" not in task({"num_slots": 11}, own).recipe.data  # slots enough for the default
    assert "max_objects" not in task().recipe.data  # drawn scenes


def test_the_size_is_that_of_data_or_model_where_only_one_says_it(cache):
    fields = {**DATA, "cache_dir": str(cache), "max_objects_drawn": 10}
    fields.pop("image_size")
    by_model = SlotAttentionTask(Recipe("slotattn", "run", {"preset": "small"}, dict(fields), {}))
    assert by_model.data_fields.image_size == by_model.recipe.data["image_size"] == 64
    by_data = SlotAttentionTask(
        Recipe("slotattn", "run", {"preset": "clevr", "num_slots": 11}, {**fields, "image_size": 64}, {})
    )
    assert by_data.config.image_size == 64


def test_two_processes_give_what_one_gives(tmp_path, cache):
    """The same loss, ARI and pictures, over 7 validation scenes, which do not divide by 2."""
    fields = [f"--{key}={value}" for key, value in {**SMALL, **DATA}.items()]
    call = ["--model", "slotattn", *fields, "--cache_dir", cache, "--num_train_epochs", "2", "--precision"]
    call += ["fp32", "--warmup_steps", "0", "--per_device_eval_batch_size", "3", "--disable_tqdm", "true"]
    call = [*map(str, call), "--per_device_train_batch_size"]
    assert train.main([*call, "8", "--runs", str(tmp_path / "one")]) == 0
    train_on_two([*call, "4", "--runs", str(tmp_path / "two")], ("slotattn",))
    folders = [tmp_path / name / "slotattn" / "tiny" for name in ("one", "two")]
    facts = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert [f["training"]["processes"] for f in facts] == [1, 2]
    for split in ("train", "val", "test"):
        assert facts[0]["metrics"][split] == pytest.approx(facts[1]["metrics"][split], rel=1e-3)
    for path in sorted((folders[0] / "progress").glob("*.png")):
        one, two = (np.asarray(Image.open(f / "progress" / path.name)).astype(int) for f in folders)
        assert np.abs(one - two).mean() < 0.5, path.name
