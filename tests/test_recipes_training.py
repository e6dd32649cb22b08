"""Recipes at work: the quick ones train two steps as they stand, the coursework's nets take one at their full size."""

import json
import math
from pathlib import Path

import pytest
import torch
from quick_features import quick_metric

import evaluate_all
import train
from evaluation import composition
from training.recipe import load_recipe
from training.tasks import TASKS, task_class

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TEXT2MATH = ("1_lstm", "2_lstm_attention", "3_bert_frozen", "4_bert_tuned")
COURSEWORK = [f"{family}/coursework" for family in ("resnet", "slotattn", "slotdiff", "vae")]
COURSEWORK += [f"text2math/coursework/{name}" for name in TEXT2MATH]


def train_two_steps(recipe: str, tmp_path: Path) -> list[dict]:
    """What every run of a recipe or study says of itself after two steps on one batch of embedded samples."""
    family = recipe.partition("/")[0]
    batch = load_recipe(RECIPES / family / "tiny.yaml").training["per_device_train_batch_size"]
    call = ["--recipe", str(RECIPES / recipe), "--max_steps", "2", "--num_train", str(batch), "--num_test", "6"]
    call += ["--num_dev" if family == "text2math" else "--num_val", "6", "--disable_tqdm", "true"]
    call += ["--cache_dir", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs")]
    assert train.main(call) == 0
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "runs" / family).rglob("metrics.json"))]


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("family", TASKS)
def test_a_familys_quick_recipe_trains_and_is_evaluated(family, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(composition, "first_metric", quick_metric)
    (facts,) = train_two_steps(f"{family}/tiny.yaml", tmp_path)
    assert facts["name"] == "tiny" and facts["training"]["steps"] == 2
    assert all(math.isfinite(value) for numbers in facts["metrics"].values() for value in numbers.values())
    folder = tmp_path / "runs" / family / "tiny"
    call = ["--device", "cpu", "--library-images", "6", "--sampled-images", "2", "--sampler-images", "0"]
    assert evaluate_all.main([str(folder), *call, "--splits", "test"]) == 0, capsys.readouterr().err
    assert (folder / "report.html").is_file() and (folder / "README.md").is_file()
    assert json.loads((folder / "metrics.json").read_text())["evaluation"]["splits"]["test"]


@pytest.mark.usefixtures("no_drawing")
def test_the_quick_study_of_norms_trains(tmp_path, capsys):
    found = train_two_steps("resnet/normalization_tiny", tmp_path)
    assert len(found) == 7 and all(facts["training"]["steps"] == 2 for facts in found)
    losses = {facts["metrics"]["train"]["loss"] for facts in found}
    assert len(losses) >= 6 and all(map(math.isfinite, losses))  # two of the seven are the same norm


def inputs_of(family: str, config) -> dict[str, torch.Tensor]:
    """A batch of one (two pictures for batch normalisation) at the size of the coursework."""
    if family == "resnet":
        return {"pixel_values": 2 * torch.rand(2, 3, 256, 256) - 1, "labels": torch.tensor([3, 24])}
    if family == "text2math":
        words, tokens = torch.randint(100, config.vocab_size, (2, 40)), torch.randint(4, 40, (2, 12))
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": tokens}
    inputs = {"pixel_values": 2 * torch.rand(1, 3, 128, 128) - 1}
    if family == "slotdiff":
        inputs |= {"timesteps": torch.tensor([400]), "noise": torch.randn(1, 3, 32, 32)}
    return inputs


def check_answer(family: str, config, output) -> None:
    """What the model answers has the shape that the coursework gives it."""
    if family == "resnet":
        assert output.logits.shape == (2, 25)
    elif family == "text2math":
        assert output.logits.shape == (2, 12, config.program_vocab_size)
    elif family == "vae":
        assert output.reconstruction.shape == (1, 3, 128, 128)
    elif family == "slotattn":
        assert output.masks.shape == (1, 11, 128, 128)
    else:
        assert output.slots.shape == (1, 11, 192) and output.attention.shape == (1, 11, 32 * 32)


@pytest.mark.parametrize("name", COURSEWORK)
def test_the_courseworks_net_takes_a_step_at_its_full_size(name):
    """A step of length 0.01 down the gradient lowers the loss of the same batch, with the same dropout."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    family = task_class(recipe.model_family)
    sizes = {"embedding_size": 300} if name.endswith("lstm") else {}
    config = family.config_class(**recipe.model, **sizes)
    model = family.model_class(config).train()
    inputs = inputs_of(family.family, config)

    def answer():
        torch.manual_seed(1)
        return model(**inputs)

    output = answer()
    output.loss.backward()
    check_answer(family.family, config, output)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained]
    assert len(trained) > 10 and all(gradient is not None for gradient in gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    assert 0 < norm < math.inf
    with torch.no_grad():
        torch._foreach_sub_(trained, torch._foreach_mul(gradients, 0.01 / norm.item()))
        assert answer().loss < output.loss
