"""Every recipe is read, checked against its family's fields, and its model built (without memory, on `meta`)."""

from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from training.recipe import load_recipe, study_recipes
from training.tasks import task_class

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
ACCELERATE = sorted((RECIPES / "accelerate").glob("*.yaml"))
FILES = sorted(p for p in RECIPES.glob("*/**/*.yaml") if not p.name.startswith("_") and p not in ACCELERATE)
STUDIES = sorted({p.parent for p in FILES if p.parent.parent != RECIPES})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(RECIPES).as_posix())
def test_a_recipe_is_valid_and_its_model_can_be_built(path):
    recipe = load_recipe(path)
    assert recipe.model_family == path.relative_to(RECIPES).parts[0]
    family = task_class(recipe.model_family)
    task = family(recipe)  # checks every key and every training and data field
    values = {"num_labels": 25, **recipe.model}
    with torch.device("meta"):
        model = family.model_class(family.config_class(**values))
    assert model.num_parameters() > 1000
    assert task.arguments.num_train_epochs > 0
    assert path.read_text().startswith("#"), "a recipe says in a comment what it is for"


@pytest.mark.parametrize("folder", STUDIES, ids=lambda p: p.relative_to(RECIPES).as_posix())
def test_a_study_varies_something_and_names_its_runs_apart(folder):
    recipes = study_recipes(folder)
    names = [r.name for r in recipes]
    assert len(set(names)) == len(names) > 1
    for recipe in recipes[1:]:
        assert recipes[0].differences(recipe)


def test_the_coursework_recipe_is_the_courseworks():
    recipe = load_recipe(RECIPES / "resnet" / "coursework.yaml")
    assert recipe.model == {"n": 2, "num_labels": 25, "norm": "bn"}
    assert recipe.data["image_size"] == 256
    training = recipe.training
    assert (training["learning_rate"], training["num_train_epochs"]) == (1e-4, 50)
    assert (training["per_device_train_batch_size"], training["optim"]) == (32, "sgd")
    assert training["lr_scheduler_type"] != "constant" and training["max_grad_norm"] >= 1e9  # nothing is clipped


def test_the_norms_of_the_study_are_the_seven():
    norms = [r.model["norm"] for r in study_recipes(RECIPES / "resnet" / "normalization")]
    assert norms == ["torch_bn", "bn", "in", "bin", "ln", "gn", "none"]


def test_the_batch_sizes_of_the_study_are_8_and_128_with_early_stopping():
    recipes = study_recipes(RECIPES / "resnet" / "batch_size")
    cells = {(r.model["norm"], r.training["per_device_train_batch_size"]) for r in recipes}
    assert cells == {(norm, batch) for norm in ("bn", "gn") for batch in (8, 128)}
    assert all(r.training["num_train_epochs"] <= 50 and r.training["early_stopping_patience"] for r in recipes)
    tuned = load_recipe(RECIPES / "resnet" / "tuned.yaml").training
    for training in (r.training for r in recipes):
        share = training["per_device_train_batch_size"] / 32  # rate, warm-up and average as at 32, counted in epochs
        assert training["learning_rate"] == pytest.approx(tuned["learning_rate"] * share)
        assert training["warmup_steps"] == pytest.approx(tuned["warmup_steps"] / share)
        assert 1 - training["ema_decay"] == pytest.approx((1 - tuned["ema_decay"]) * share)


def test_the_courseworks_slot_attention_has_11_slots_at_128_and_the_published_ones_their_schedules():
    for name in ("coursework", "clevrtex"):
        recipe = load_recipe(RECIPES / "slotattn" / f"{name}.yaml")
        config = task_class("slotattn").config_class(**recipe.model)
        assert (config.num_slots, config.image_size, config.slot_init, config.slot_size) == (11, 128, "learned", 192)
        training = recipe.training
        assert (training["per_device_train_batch_size"], training["num_train_epochs"]) == (64, 200)
        assert (training["learning_rate"], training["warmup_steps"]) == (4e-4, 0.025)
        assert training["lr_scheduler_kwargs"] == {"min_lr_rate": 0.01}
    clevr = load_recipe(RECIPES / "slotattn" / "clevr.yaml")
    assert clevr.model["num_slots"] == clevr.data["max_objects"] + 1 == 7
    assert (clevr.training["warmup_steps"], clevr.training["halve_lr_every"]) == (10_000, 100_000)


def test_the_courseworks_slot_diffusion_has_its_chain_rates_and_schedule():
    recipe = load_recipe(RECIPES / "slotdiff" / "coursework.yaml")
    config = task_class("slotdiff")(recipe).config
    assert (config.num_slots, config.image_size, config.latent_shape) == (11, 128, (3, 32, 32))
    chain = (config.num_train_timesteps, config.beta_start, config.beta_end, config.beta_schedule)
    assert chain == (1000, 0.0015, 0.0195, "linear")
    training = recipe.training
    rate, share = training["learning_rate"], training["lr_multipliers"]
    assert rate == 2e-4 and {rate * share[f"slots_{part}"] for part in ("decay", "no_decay")} == {1e-4}
    assert (training["max_grad_norm"], training["warmup_steps"], training["lr_scheduler_type"]) == (1.0, 0.05, "cosine")
    assert (training["per_device_train_batch_size"], training["weight_decay"]) == (64, 0)
    paper = task_class("slotdiff")(load_recipe(RECIPES / "slotdiff" / "slotdiffusion.yaml")).config
    assert paper.beta_schedule == "scaled_linear" and paper.unet_config.residual_form


def test_slot_diffusion_has_the_scenes_of_its_autoencoder_and_of_slot_attention():
    recipes = {family: load_recipe(RECIPES / family / "plain64.yaml") for family in ("slotdiff", "vae", "slotattn")}
    assert recipes["slotdiff"].data == recipes["vae"].data == recipes["slotattn"].data
    assert recipes["slotdiff"].training["vae_recipe"] == "recipes/vae/plain64.yaml"
    assert recipes["vae"].model["ema_decay"] and recipes["vae"].model["revive_after"] > 0


def test_the_quickest_slot_diffusion_starts_from_the_published_autoencoder_of_such_scenes():
    recipe, of_vae = (load_recipe(RECIPES / name) for name in ("slotdiff/tiny.yaml", "vae/plain64.yaml"))
    assert (RECIPES.parent / recipe.model["vae"] / "model.safetensors").is_file()
    assert recipe.model["vae"] == "model_cards/vae-plain64"
    for field in ("difficulty", "image_size"):
        assert recipe.data[field] == of_vae.data[field]


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.name)
def test_accelerate_reads_its_configs(path):
    config = load_config_from_file(str(path))  # raises for a key that it does not know
    assert config.num_processes > 1 and config.mixed_precision == "no"
    assert path.read_text().startswith("#")
