import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn import metrics as sk
from torch.nn import functional as F
from trained_run import make_run
from transformers import AutoImageProcessor

from data.birds import BirdsData, load_birds, pixels_of
from evaluation import grad_cam
from evaluation.resnet import Options, evaluate, load_model
from evaluation.resnet_card import card_content
from evaluation.resnet_report import save_galleries
from evaluation.runs import RunError, load_run
from models import ResNet6n2ForImageClassification


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "bn", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluated(trained):
    return evaluate(load_run(trained), Options(batch_size=7))


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def test_metrics_equal_scikit_learn_on_the_models_own_answers(trained, evaluated):
    run = load_run(trained)
    splits = load_birds(BirdsData(**run.recipe["data"]))
    model = ResNet6n2ForImageClassification.from_pretrained(trained).eval()
    for split, numbers in evaluated["metrics"].items():
        labels = np.array(splits[split]["label"])
        values = torch.from_numpy(pixels_of(splits[split][:]).copy()).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            logits = model(pixel_values=values).logits
        predicted = logits.argmax(-1).numpy()
        assert numbers["samples"] == len(labels) == run.recipe["data"][f"num_{split}"]
        assert numbers["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
        assert numbers["f1_micro"] == pytest.approx(sk.f1_score(labels, predicted, average="micro"))
        assert numbers["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
        assert numbers["loss"] == pytest.approx(F.cross_entropy(logits, torch.from_numpy(labels)).item(), abs=1e-4)
        details = evaluated["evaluation"]["splits"][split]
        assert details["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=range(4)).tolist()
        expected = sk.recall_score(labels, predicted, average=None, labels=range(4), zero_division=0)
        assert [row["recall"] for row in details["per_class"]] == pytest.approx(expected)
        low, high = numbers["accuracy_interval"]
        assert low < numbers["accuracy"] < high


def test_the_processor_saved_with_the_run_gives_the_same_input(trained):
    run = load_run(trained)
    split = load_birds(BirdsData(**run.recipe["data"]))["val"]
    pixels = pixels_of(split[:2])
    expected = AutoImageProcessor.from_pretrained(trained)(list(pixels), return_tensors="pt")["pixel_values"]
    from evaluation.resnet import Classifier

    assert Classifier(run, Options()).pixel_values(pixels).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_gallery_is_the_same_every_time_and_shows_what_its_index_says(trained, evaluated):
    run = load_run(trained)
    again = evaluate(run, Options(batch_size=64, force=True))
    for one, two in zip(
        evaluated["pictures"]["grad_cam"]["cells"], again["pictures"]["grad_cam"]["cells"], strict=True
    ):
        assert {k: v for k, v in one.items() if "prob" not in k} == {k: v for k, v in two.items() if "prob" not in k}
    run.metrics["evaluation"] = evaluated["evaluation"]
    save_galleries(run, evaluated["pictures"])
    index = json.loads((trained / "galleries" / "grad_cam.json").read_text())
    assert index["cell_size"] == 64 and index["classes"] == run.labels
    split = load_birds(BirdsData(**run.recipe["data"]))["val"]
    labels = {i: run.labels[label] for i, label in zip(split["id"], split["label"], strict=True)}
    for cell in index["cells"]:
        assert cell["label"] == cell["class"] == labels[cell["id"]]
        assert (cell["prediction"] == cell["label"]) == cell["right"]
        assert 0 < cell["true_probability"] <= cell["probability"] <= 1


def test_a_map_of_the_gallery_is_grad_cam_of_that_image_for_its_true_class(trained, evaluated):
    run = load_run(trained)
    gallery = evaluated["pictures"]["grad_cam"]
    model = load_model(run)
    for cell, image, cam in list(zip(gallery["cells"], gallery["images"], gallery["maps"], strict=True))[:3]:
        values = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        alone = grad_cam.compute_maps(model, values, np.array([run.labels.index(cell["label"])]))[0]
        assert cam == pytest.approx(alone, abs=1e-3)


def test_fewer_than_five_is_said(evaluated):
    gallery = evaluated["pictures"]["grad_cam"]
    for row, note in gallery["notes"].items():
        sides = [
            sum(c["class_index"] == row and c["right"] is side for c in gallery["cells"]) for side in (True, False)
        ]
        assert bool(note) == (min(sides) < 5)


def test_the_hardest_images_come_worst_first(evaluated):
    losses = [item["loss"] for item in evaluated["pictures"]["hardest"]]
    assert len(losses) == 24 and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("choice", [None, "load_best_model_at_end", "early_stopping_patience"])
def test_the_card_says_what_validation_served_to_choose(copy, evaluated, choice):
    run = load_run(copy)
    run.metrics["metrics"] = evaluated["metrics"]
    run.recipe["training"] = {**run.recipe.get("training", {}), **({choice: 3} if choice else {})}
    said = " ".join(card_content(run).limits)
    assert ("served to choose between epochs and recipes" in said) == bool(choice) and "served to choose" in said


def damage(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_weight_is_not_replaced_by_a_random_one(copy):
    damage(copy, lambda weights: dict(list(weights.items())[1:]))
    with pytest.raises(RunError, match="missing_keys"):
        load_model(load_run(copy))


def test_weights_that_are_not_finite_are_refused(copy):
    damage(copy, lambda weights: {k: v * float("nan") if "classifier" in k else v for k, v in weights.items()})
    with pytest.raises(RunError, match="not finite"):
        load_model(load_run(copy))


def test_truncated_weights_are_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match="does not load"):
        load_model(load_run(copy))


def test_data_with_other_classes_are_refused(copy):
    run = load_run(copy)
    run.recipe["data"]["num_classes"] = 5
    with pytest.raises(RunError, match="5 classes"):
        evaluate(run, Options())


def test_a_data_field_of_another_version_is_named(copy):
    run = load_run(copy)
    run.recipe["data"]["colour"] = "red"
    with pytest.raises(RunError, match="'colour'"):
        evaluate(run, Options())
