"""The VAE task on a small net and embedded scenes of 16x16."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from data.clevrtex import pixels_of
from models import VQVAEModel
from tests.small_scenes import assert_equal_weights, vae_task
from training.errors import RunError
from training.run import build_trainer, execute
from training.trainer import FamilyTrainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def task(cache):
    return partial(vae_task, cache)


def test_a_resumed_run_with_a_moving_codebook_equals_the_uninterrupted_one(task, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    original = FamilyTrainer._save_checkpoint

    def save_then_die(self, model, trial):
        original(self, model, trial)
        raise Killed

    execute(task(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(FamilyTrainer, "_save_checkpoint", save_then_die)
        for _ in range(2):  # dies at step 2 and at step 4
            with pytest.raises(Killed):
                execute(task(), tmp_path / "parts")
    torch.rand(3)
    execute(task(), tmp_path / "parts")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_accumulated_gradients_and_codes_are_those_of_the_large_batch(task, tmp_path):
    often = {"num_train_epochs": 1, "save_strategy": "no", "optim": "sgd", "learning_rate": 0.05}
    execute(task(**often), tmp_path / "large")
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    execute(task(**often, **halves), tmp_path / "halves")
    assert_equal_weights(tmp_path / "large", tmp_path / "halves", atol=1e-5)


@pytest.mark.parametrize(
    ("model", "eval_batch"), [({}, 4), ({"ema_decay": None, "reconstruction_loss": "l1", "codebook_weight": 0.5}, 7)]
)
def test_the_metrics_of_an_evaluation_are_those_of_each_scene_alone(task, tmp_path, model, eval_batch):
    made = task(model, per_device_eval_batch_size=eval_batch)
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    split = made.datasets["val"]
    result = trainer.evaluate(eval_dataset=split, metric_key_prefix="eval")
    losses, errors, ratios, codes = [], [], [], []
    trainer.model.eval()
    for row in split:
        image = torch.from_numpy(pixels_of(row).copy()).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            output = trainer.model(image)
        losses.append(output.loss.item())
        true, found = (x.numpy().astype(np.float64) / 2 + 0.5 for x in (image, output.reconstruction.clamp(-1, 1)))
        errors.append(np.mean((true - found) ** 2))
        ratios.append(20 * np.log10(1 / np.sqrt(errors[-1])))
        codes += output.codes.flatten().tolist()
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    assert result["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["eval_mean_squared_error"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert result["eval_psnr"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert result["eval_codebook_use"] == len(share) / 12
    assert result["eval_perplexity"] == pytest.approx(2 ** -np.sum(share * np.log2(share)))


def test_it_learns_to_reconstruct_and_draws_pictures_as_it_goes(task, tmp_path):
    often = {"num_train_epochs": 6, "save_strategy": "no", "progress_pictures": 4, "learning_rate": 1e-2}
    made = task({"num_codes": 64}, {"num_train": 48}, **often)
    execute(made, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    pixels = pixels_of(made.datasets["test"][:]) / 255
    one_colour = pixels.var(axis=(0, 1, 2)).mean()  # the least error of one and the same colour everywhere
    assert facts["test"]["mean_squared_error"] < one_colour
    assert facts["test"]["perplexity"] > 2
    drawn = sorted((tmp_path / "run" / "progress").glob("*.png"))
    assert len(drawn) == 6
    first, last = (np.asarray(Image.open(path)).astype(float) for path in (drawn[0], drawn[-1]))
    assert np.array_equal(first[:, :97], last[:, :97]) and not np.array_equal(first, last)
    latents = VQVAEModel.from_pretrained(tmp_path / "run").encode(torch.zeros(1, 3, 16, 16))
    assert latents.shape == (1, 3, 4, 4)


def test_half_precision_trains_before_full_precision_in_one_process(task, tmp_path):
    often = {"num_train_epochs": 1, "save_strategy": "no"}
    made = {name: task(precision=name, **often) for name in ("fp32", "bf16")}  # both before either runs
    for name in ("bf16", "fp32"):
        execute(made[name], tmp_path / name)
    facts = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("bf16", "fp32")]
    assert [f["training"]["precision"] for f in facts] == ["bf16", "fp32"]
    losses = [f["metrics"]["val"]["loss"] for f in facts]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.parametrize(
    ("model", "data", "training", "message"),
    [
        ({}, {"image_size": 18}, {}, r"data.image_size is 18, but model.widths has 3 levels; set a multiple of 4"),
        ({"num_channels": 1}, {}, {}, "model.num_channels is 1, but the pictures have 3"),
        ({"widths": [8, 9]}, {}, {}, r"widths=\[8, 9\]"),
        ({}, {}, {"progress_pictures": 65}, "training.progress_pictures must be in"),
    ],
)
def test_wrong_settings_are_named(task, model, data, training, message):
    with pytest.raises(RunError, match=message):
        task(model, data, **training)
