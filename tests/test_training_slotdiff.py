"""The slot diffusion task on a small net and embedded scenes of 16x16."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DDPMScheduler
from PIL import Image
from sklearn.metrics import adjusted_rand_score

import train
from data.clevrtex import masks_of
from models import SlotDiffusionModel, VQVAEConfig, VQVAEModel
from tests.small_scenes import (
    DATA,
    SLOTDIFF,
    TRAINING,
    UNET,
    VAE,
    assert_equal_weights,
    slotdiff_task,
    vae_task,
    weights,
)
from tests.two_processes import train_on_two
from training.diffusion_noise import diffusion_draws
from training.errors import CheckpointError, RunError
from training.recipe import load_recipe
from training.run import build_trainer, execute
from training.slot_noise import EVALUATION_STREAM, slot_noise
from training.trainer import FamilyTrainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def vae(cache, tmp_path_factory):
    """The run folder of a trained VAE."""
    folder = tmp_path_factory.mktemp("runs") / "vae"
    execute(vae_task(cache, save_strategy="no", num_train_epochs=1), folder)
    return folder


@pytest.fixture
def task(cache, vae):
    """Makes a SlotDiffusionTask of 6 steps (2 epochs) on 24 scenes."""
    return partial(slotdiff_task, cache, vae)


@pytest.fixture(scope="module")
def run(cache, vae, tmp_path_factory):
    """The folder of a run of 18 steps in half precision, with scaled latents and samples drawn after each epoch."""
    folder = tmp_path_factory.mktemp("runs") / "slotdiff"
    often = {"num_train_epochs": 3, "save_strategy": "no", "progress_pictures": 2, "learning_rate": 5e-3}
    execute(slotdiff_task(cache, vae, None, {"num_train": 48}, precision="bf16", scale_latents=True, **often), folder)
    return folder


# ---- Training ----


class Killed(BaseException):
    pass


def kill_after_a_checkpoint(task, folder: Path, monkeypatch) -> None:
    """Execute a task until its first checkpoint is there."""
    original = FamilyTrainer._save_checkpoint

    def save_then_die(self, model, trial):
        original(self, model, trial)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FamilyTrainer, "_save_checkpoint", save_then_die)
        execute(task, folder)


def test_a_resumed_run_with_dropout_and_average_equals_the_uninterrupted_one(task, tmp_path, monkeypatch):
    made = partial(task, {"unet_config": {**UNET, "dropout": 0.1}}, ema_decay=0.9, scale_latents=True, save_steps=4)
    execute(made(), tmp_path / "whole")
    kill_after_a_checkpoint(made(), tmp_path / "parts", monkeypatch)  # in the second epoch
    torch.rand(3)
    execute(made(), tmp_path / "parts")
    assert_equal_weights(tmp_path / "whole", tmp_path / "parts")


def test_no_run_goes_on_with_another_autoencoder_than_it_began_with(cache, vae, tmp_path, monkeypatch):
    shutil.copytree(vae, tmp_path / "vae")
    kill_after_a_checkpoint(slotdiff_task(cache, tmp_path / "vae"), tmp_path / "run", monkeypatch)
    shutil.rmtree(tmp_path / "vae")
    execute(vae_task(cache, save_strategy="no", num_train_epochs=1, seed=5), tmp_path / "vae")
    with pytest.raises(CheckpointError, match="checkpoint-2 was made with another autoencoder than"):
        execute(slotdiff_task(cache, tmp_path / "vae"), tmp_path / "run")


def test_accumulated_gradients_are_those_of_the_large_batch(task, tmp_path):
    often = {"num_train_epochs": 1, "save_strategy": "no", "optim": "sgd", "learning_rate": 0.05}
    execute(task(**often), tmp_path / "large")
    execute(
        task(**often, per_device_train_batch_size=2, gradient_accumulation_steps=4),
        tmp_path / "quarters",
    )
    assert_equal_weights(tmp_path / "large", tmp_path / "quarters", atol=1e-5)


def test_the_autoencoder_is_saved_with_the_model_and_not_trained(run, vae):
    facts = json.loads((run / "metrics.json").read_text())
    assert facts["training"]["precision"] == "bf16" and np.isfinite(facts["metrics"]["val"]["loss"])
    saved, theirs = weights(run), weights(vae)
    assert all(torch.equal(saved[f"vae.{name}"], value) for name, value in theirs.items())
    loaded = SlotDiffusionModel.from_pretrained(run)
    assert not any(parameter.requires_grad for parameter in loaded.vae.parameters())
    frozen = loaded.vae.num_parameters()
    assert facts["training"]["parameters"] - facts["training"]["trained_parameters"] == frozen > 0


def test_slots_and_denoiser_have_rates_and_decay_of_their_own(task, tmp_path):
    rates = {"slots_decay": 0.5, "slots_no_decay": 0.25}
    made = task(learning_rate=2e-4, weight_decay=0.01, lr_multipliers=rates)
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    groups = {g["name"]: g for g in trainer.create_optimizer().param_groups}
    assert {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "slots_decay": (1e-4, 0.01),
        "slots_no_decay": (5e-5, 0.0),
        "unet_decay": (2e-4, 0.01),
        "unet_no_decay": (2e-4, 0.0),
    }
    trained = {id(p) for g in groups.values() for p in g["params"]}
    model = trainer.model
    assert trained == {id(p) for part in (model.slot_encoder, model.unet) for p in part.parameters()}


def test_the_loss_falls_and_samples_are_drawn_as_training_goes(run):
    history = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    columns = dict(zip(history[0], range(len(history[0])), strict=True))
    losses = [float(row[columns["loss"]]) for row in history[1:] if row[columns["split"]] == "val"]
    assert len(losses) == 3 and losses[-1] < min(losses[0], 0.95)  # 1 is what an answer of zero has
    assert {"adjusted_rand_index", "foreground_adjusted_rand_index"} <= columns.keys()
    drawn = sorted((run / "progress").glob("*.png"))
    assert [path.name for path in drawn] == [f"step_{step:06d}.png" for step in (6, 12, 18)]
    assert Image.open(drawn[0]).size == (4 * 99 + 3, 2 * 99 + 3)  # image, true masks, masks, sample
    config = SlotDiffusionModel.from_pretrained(run).config
    assert config.latent_scale != 1.0


# ---- What the loss is taken at ----


def test_timesteps_and_noise_are_functions_of_seed_stream_and_sample(task):
    made = task()
    made.build_model()
    rows = [made.datasets["train"][i] for i in range(5)]
    epoch = torch.zeros((), dtype=torch.int64)
    training, evaluation = made.collator(epoch), made.collator()
    first, fixed = training(rows), evaluation(rows)
    assert first["noise"].shape == first["latents"].shape == (5, 3, 4, 4) and first["slot_noise"].shape == (5, 4, 8)
    alone = training(rows[3:])
    for name in ("timesteps", "noise", "slot_noise", "latents"):
        assert torch.equal(alone[name], first[name][3:]), name
    epoch.fill_(1)
    second = training(rows)
    assert torch.equal(second["latents"], first["latents"])
    for name in ("timesteps", "noise", "slot_noise"):
        assert not torch.equal(second[name], first[name]), name
        assert torch.equal(evaluation(rows)[name], fixed[name]), name
    other = task(seed=1)
    other.build_model()
    assert not torch.equal(other.collator()(rows)["noise"], fixed["noise"])


def test_draws_are_uniform_normal_and_apart_from_the_noise_of_the_slots():
    ids = range(3000)
    timesteps, noise = diffusion_draws(ids, 2, (3, 2, 2), 1000, seed=0)
    counts = np.bincount(timesteps.numpy() // 100, minlength=10)
    assert timesteps.min() >= 0 and timesteps.max() <= 999 and counts.min() > 230 and counts.max() < 370
    assert abs(noise.mean().item()) < 0.02 and abs(noise.std().item() - 1) < 0.02
    for stream in (0, EVALUATION_STREAM):
        of_slots = slot_noise(ids, stream, 3, 4, 0).flatten().numpy()
        drawn = diffusion_draws(ids, stream, (3, 2, 2), 1000, seed=0)[1].flatten().numpy()
        assert abs(np.corrcoef(of_slots, drawn)[0, 1]) < 0.03


@pytest.mark.parametrize("eval_batch", [4, 7])
def test_the_metrics_of_an_evaluation_are_those_of_each_scene_alone(task, tmp_path, eval_batch):
    made = task(per_device_eval_batch_size=eval_batch)
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    model, split = trainer.model, made.datasets["val"]
    torch.nn.init.normal_(model.unet.conv_out.weight)  # a fresh denoiser answers zero
    result = trainer.evaluate(eval_dataset=split, metric_key_prefix="eval")
    chain = DDPMScheduler(1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="linear")
    losses, everything, foreground = [], [], []
    model.eval()
    for row in split:
        batch = made.collator()([row])
        timesteps, noise = diffusion_draws([row["id"]], EVALUATION_STREAM, (3, 4, 4), 1000, made.arguments.seed)
        with torch.no_grad():
            noisy = chain.add_noise(model.vae.encode(batch["pixel_values"]), noise, timesteps)
            slots, attention = model.slot_encoder(batch["pixel_values"], batch["slot_noise"], return_dict=False)
            losses.append((model.unet(noisy, timesteps, slots).sample - noise).square().mean().item())
        maps = torch.nn.functional.interpolate(attention.unflatten(2, (8, 8)), size=16, mode="bilinear")
        predicted, true = maps[0].argmax(0).numpy().ravel(), masks_of(row).ravel()
        everything.append(adjusted_rand_score(true, predicted))
        foreground.append(adjusted_rand_score(true[true > 0], predicted[true > 0]))
    assert result["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert result["eval_adjusted_rand_index"] == pytest.approx(np.mean(everything), abs=1e-6)
    assert result["eval_foreground_adjusted_rand_index"] == pytest.approx(np.mean(foreground), abs=1e-6)


def test_cached_latents_give_the_loss_of_encoding_each_step_and_scaling_makes_their_variance_one(task, tmp_path):
    results = []
    for cached in (True, False):
        made = task({"latent_scale": 2.5}, cache_latents=cached)
        trainer = build_trainer(made, made.build_model(), tmp_path / str(cached))
        torch.nn.init.normal_(trainer.model.unet.conv_out.weight, generator=torch.Generator().manual_seed(3))
        assert ("latents" in made.collator()([made.datasets["val"][0]])) == cached
        results.append(trainer.evaluate(eval_dataset=made.datasets["val"], metric_key_prefix="eval")["eval_loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    made = task(scale_latents=True)
    model = made.build_model()
    latents = made.collator()(list(made.datasets["train"]))["latents"]
    assert latents.std().item() == pytest.approx(1, rel=1e-3) and model.config.latent_scale == made.config.latent_scale


# ---- The autoencoder: named, found, trained first ----


def test_a_checkpoint_of_the_courses_layout_does_as_well_as_a_run_folder(task, cache, vae, tmp_path):
    plain = VQVAEModel(VQVAEConfig(**{**VAE, "ema_decay": None, "revive_after": 0}))
    state = {name: weights(vae)[name] for name in plain.state_dict()}
    torch.save({"state_dict": state}, tmp_path / "vae_checkpoint.pth")
    config = {**VAE, "ema_decay": None, "revive_after": 0}
    by_file = slotdiff_task(cache, tmp_path / "vae_checkpoint.pth", {"vae_config": config})
    by_folder = task()
    models = [made.build_model() for made in (by_file, by_folder)]
    rows = [by_file.datasets["val"][i] for i in range(3)]
    batches = [made.collator()(rows) for made in (by_file, by_folder)]
    assert torch.equal(*(batch["latents"] for batch in batches))
    assert torch.equal(*(model.decode_latents(batches[0]["latents"]) for model in models))


def damaged(vae: Path, folder: Path) -> Path:
    shutil.copytree(vae, folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-9] ^= 64
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_an_autoencoder_that_is_missing_or_cannot_be_trusted_is_an_error_that_names_the_field(cache, vae, tmp_path):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "vae_checkpoint.pth").write_bytes(b"no checkpoint")
    torch.save({"surplus": torch.ones(1)}, tmp_path / "foreign.pth")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "resnet6n2"}')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[1]")
    cases = {
        "list": "model.vae names .*list, whose config.json cannot be used: it holds a list where an object belongs",
        "nowhere": "model.vae names .*nowhere, which is not there; give a run folder of the family vae",
        "unfinished": "model.vae cannot be used: .*unfinished .*config.json",
        "vae_checkpoint.pth": "model.vae cannot be used: .*vae_checkpoint.pth cannot be read as a checkpoint",
        "foreign.pth": r"model.vae cannot be used: .*; 205 missing: (\S+, ){3}\.\.\.; 1 surplus: surplus$",
        "damaged": r"model.vae cannot be used: .*model.safetensors is damaged",
        "other": "model.vae names .*other, whose config.json cannot be used: it is of a 'resnet6n2'",
    }
    damaged(vae, tmp_path / "damaged")
    for name, message in cases.items():
        with pytest.raises(RunError, match=message):
            slotdiff_task(cache, tmp_path / name).build_model()
    with pytest.raises(RunError, match=r"no autoencoder is named; set model.vae .* or training.vae_recipe"):
        slotdiff_task(cache, None)
    with pytest.raises(RunError, match=r"training.vae_recipe names nowhere.yaml, which is not there"):
        slotdiff_task(cache, None, vae_recipe="nowhere.yaml")
    with pytest.raises(RunError, match=r"names recipes/resnet/tiny.yaml, a recipe of resnet, not of vae"):
        slotdiff_task(cache, None, vae_recipe="recipes/resnet/tiny.yaml")


@pytest.mark.parametrize(
    ("model", "data", "training", "message"),
    [
        ({"num_slots": 1}, {}, {}, r"num_slots is 1, but .*3 objects.*set model.num_slots to at least 4$"),
        ({"num_slots": 3}, {}, {}, r"num_slots is 3, but .*3 objects.*at least 4, or data.max_objects_drawn to 2"),
        ({"image_size": 32}, {}, {}, "model.image_size is 32, but data.image_size is 16"),
        ({}, {"image_size": 20}, {}, "image_size=20.* multiple of 8"),
        ({"unet_config": {**UNET, "cross_attention_dim": 9}}, {}, {}, "unet_config.cross_attention_dim=9"),
        ({"vae_config": VAE}, {}, {}, "names an autoencoder that has a config; leave out model.vae_config"),
        ({}, {}, {"scale_latents": True, "cache_latents": False}, "training.scale_latents needs"),
    ],
)
def test_wrong_settings_are_named(task, model, data, training, message):
    with pytest.raises(RunError, match=message):
        task(model, data, **training).build_model()


def write_recipes(folder: Path, cache: Path) -> Path:
    """A recipe of each family; that of slot diffusion, which is returned, asks for the other."""
    own = {**TRAINING, "save_strategy": "no", "num_train_epochs": 1}
    other = {"num_train": 500}  # of the VAE's recipe: not used, the data are those of the run that asks for it
    recipes = {
        "small_vae": {"model_family": "vae", "model": VAE, "data": other, "training": own},
        "small": {
            "model_family": "slotdiff",
            "model": SLOTDIFF,
            "data": {**DATA, "cache_dir": str(cache)},
            "training": {**own, "vae_recipe": str(folder / "small_vae.yaml"), "scale_latents": True},
        },
    }
    for name, content in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


def test_a_dry_run_needs_no_autoencoder_and_writes_nothing(cache, tmp_path, capsys):
    recipe = write_recipes(tmp_path, cache)
    assert train.main(["--recipe", str(recipe), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("expected") == 2 and said.index("small_vae\n") < said.index("small\n")
    assert not (tmp_path / "runs").exists()
    assert train.main(["--recipe", str(recipe), "--dry-run", "--num_train", "2"]) == 2
    error = capsys.readouterr().err
    assert "small_vae.yaml, which small starts from: the training split has 2 samples, fewer than one batch" in error


def test_the_autoencoder_is_trained_first_and_once_and_two_processes_give_what_one_gives(cache, tmp_path, capsys):
    """Both families over 7 validation scenes, which do not divide by 2."""
    recipe = write_recipes(tmp_path, cache)
    call = ["--recipe", str(recipe), "--per_device_eval_batch_size", "3"]
    assert train.main([*call, "--runs", str(tmp_path / "one")]) == 0, capsys.readouterr().err
    assert train.build_task(load_recipe(recipe), []).prerequisites(tmp_path / "one") == []
    (tmp_path / "one/vae").rename(tmp_path / "elsewhere")  # it is in the finished run, and not trained again for it
    assert train.main([*call, "--runs", str(tmp_path / "one")]) == 0, capsys.readouterr().err
    assert "has finished before" in capsys.readouterr().out and not (tmp_path / "one/vae").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "one/vae")
    assert len(train.build_task(load_recipe(recipe), []).prerequisites(tmp_path / "two")) == 1
    assert train.main([*call, "--runs", str(tmp_path / "one"), "--name", "other", "--num_train", "20"]) == 2
    error = capsys.readouterr().err
    assert "holds another autoencoder" in error and "data.num_train: 20, was 24" in error and "--vae" in error

    content = yaml.safe_load((tmp_path / "small_vae.yaml").read_text())
    content["training"]["per_device_train_batch_size"] = 4
    (tmp_path / "small_vae.yaml").write_text(yaml.safe_dump(content))
    halves = [*call, "--per_device_train_batch_size", "4", "--runs", str(tmp_path / "two")]
    train_on_two(halves, ("vae", "slotdiff"))
    for name in ("vae/small_vae", "slotdiff/small"):
        folders = [tmp_path / runs / name for runs in ("one", "two")]
        facts = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
        assert [f["training"]["processes"] for f in facts] == [1, 2]
        for split in ("train", "val", "test"):
            assert facts[0]["metrics"][split] == pytest.approx(facts[1]["metrics"][split], rel=1e-4)
        curves = [[row.split(",")[4] for row in (f / "history.csv").read_text().splitlines()[1:]] for f in folders]
        assert np.array(curves[0], float) == pytest.approx(np.array(curves[1], float), rel=1e-5)
