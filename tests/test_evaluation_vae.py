"""The evaluation of a small VQ-VAE run, from its folder to report, card, comparison and published files."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from quick_features import NAME, quick_metric
from trained_vae import make_run

import evaluate_all
from data.clevrtex import ClevrtexData, load_clevrtex, pixels_of
from evaluation import vae
from evaluation.card import write_card
from evaluation.runs import RunError, load_run
from models import VQVAEModel

FIGURES = {"curves.png", "codes.png", "reconstructions.png"}
CALL = ["--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def quick_features():
    """Distances in cheap features: what they are is another module's test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "first_metric", quick_metric)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def study(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "study"
    make_run(root / "short", base, steps=3)
    make_run(root / "long", base, steps=80)
    assert evaluate_all.main([str(root), *CALL]) == 0
    return root


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def outputs(folder, split):
    """(images in [0, 1] [N, 3, S, S], the model's output) of all pictures of a split."""
    rows = load_clevrtex(ClevrtexData(**load_run(folder).recipe["data"]))[split]
    images = torch.from_numpy(pixels_of(rows[:]).copy()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return images, VQVAEModel.from_pretrained(folder).eval()(2 * images - 1)


def test_every_run_gets_its_files_and_the_study_its_comparison(study):
    for run in (study / "short", study / "long"):
        for name in ("report.html", "README.md", "generated.json", "galleries/reconstructions.png"):
            assert (run / name).is_file(), name
        assert {path.name for path in (run / "figures").iterdir()} == FIGURES
        assert set(metrics_of(run)["metrics"]) == {"train", "val", "test"}
    said = " ".join(json.loads((study / "comparison.json").read_text())["observations"]).replace("\u00a0", " ")
    levels = {name: metrics_of(study / name)["metrics"]["val"]["psnr"] for name in ("short", "long")}
    assert levels["long"] > levels["short"]
    assert f"long has the higher PSNR than short by {levels['long'] - levels['short']:.2f} dB" in said


def test_errors_are_those_of_the_model_picture_by_picture(study):
    images, output = outputs(study / "long", "test")
    unit = ((output.reconstruction + 1) / 2).clamp(0, 1)
    squared = (unit - images).square().double()
    numbers = metrics_of(study / "long")["metrics"]["test"]
    assert numbers["samples"] == 5
    assert numbers["reconstruction_mse"] == pytest.approx(squared.sum(dim=(1, 2, 3)).mean().item(), rel=1e-4)
    assert numbers["psnr"] == pytest.approx((-10 * squared.mean(dim=(1, 2, 3)).log10()).mean().item(), rel=1e-4)
    away = images.double() - images.double().mean(dim=(0, 2, 3), keepdim=True)
    explained = 1 - (squared.sum() / away.square().sum()).item()
    assert numbers["explained_variance"] == pytest.approx(explained, abs=1e-5)
    low, high = numbers["explained_variance_interval"]
    assert low < explained < high < 1
    assert numbers["loss"] == pytest.approx(output.loss.item(), rel=1e-4)


def test_codes_are_counted_over_the_whole_split(study):
    _, output = outputs(study / "long", "val")
    values, counts = np.unique(output.codes.numpy(), return_counts=True)
    shares = counts / counts.sum()
    numbers, details = (metrics_of(study / "long")[key] for key in ("metrics", "evaluation"))
    assert numbers["val"]["codebook_use"] == pytest.approx(len(values) / 24)
    assert numbers["val"]["perplexity"] == pytest.approx(np.prod(shares**-shares))
    assert details["splits"]["val"]["codes"] == pytest.approx(sorted(shares.tolist(), reverse=True))
    assert details["splits"]["val"]["positions"] == 16
    std = output.latents.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    assert details["splits"]["val"]["latent_std"] == pytest.approx(std.tolist(), rel=1e-3)


def test_numbers_do_not_depend_on_the_batch(study, copy):
    before = metrics_of(copy / "long")["metrics"]
    assert evaluate_all.main([str(copy / "long"), *CALL, "--batch-size", "3", "--force"]) == 0
    after = metrics_of(copy / "long")["metrics"]
    for split, numbers in before.items():
        for key in ("loss", "psnr", "explained_variance", "perplexity"):
            assert after[split][key] == pytest.approx(numbers[key], rel=1e-3)


def test_a_second_evaluation_takes_what_is_stored(copy, capsys, monkeypatch):
    run = copy / "long"
    before = metrics_of(run)
    assert evaluate_all.main([str(run), *CALL]) == 0
    assert "(up to date)" in capsys.readouterr().out
    history = run / "history.csv"
    history.write_text(history.read_text().replace("15.0", "17.0"))
    monkeypatch.setattr(vae, "features_of", lambda *_: pytest.fail("features computed again"))
    monkeypatch.setattr("evaluation.vae.metrics.load", lambda *_: pytest.fail("measured again"))
    assert evaluate_all.main([str(run), *CALL]) == 0
    after = metrics_of(run)
    assert after["metrics"] == before["metrics"]
    said = " ".join(after["evaluation"]["observations"]).replace("\u00a0", " ")
    assert "from 10.0 dB at epoch 1 to 17.0 dB at epoch 3, the highest of all" in said


def test_the_report_and_the_observations_say_the_numbers(study):
    metrics = metrics_of(study / "long")
    html = (study / "long" / "report.html").read_text().replace("\u00a0", " ")
    for numbers in metrics["metrics"].values():
        assert f"{numbers['psnr']:.2f}" in html and f"{numbers['loss']:.4f}" in html
    assert html.count("<span>four times the error</span>") == 8 and "http" not in re.sub(
        r"data:image/\w+;base64,[\w+/=]+", "", html
    )
    said = " ".join(metrics["evaluation"]["observations"]).replace("\u00a0", " ")
    used = len(metrics["evaluation"]["splits"]["val"]["codes"])
    assert f"{used} of 24 codes occur" in said and "16 codes of 4.6 bits, 9 bytes instead of 768" in said
    entry = metrics["evaluation"]["frechet"]
    assert f"8 reconstructions are at {NAME} {entry['value']:.1f} from their pictures" in said
    assert f"{entry['train']:.1f} for as many training pictures" in said and entry["value"] > 0


def test_the_card_loads_back_and_works_before_the_evaluation(study, base, tmp_path):
    assert evaluate_all.main([str(study / "long"), *CALL, "--publish", str(tmp_path / "cards")]) == 0
    target = tmp_path / "cards" / "vae-study-long"
    published = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert published == {"README.md", "metrics.json", "history.csv", *(f"figures/{name}" for name in FIGURES)}
    card = ModelCard.load(target / "README.md")
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert measured["test", "psnr"] == pytest.approx(metrics_of(study / "long")["metrics"]["test"]["psnr"], abs=1e-6)
    fresh = make_run(tmp_path / "fresh", base, steps=3)
    text = write_card(fresh).read_text()
    assert "| PSNR of reconstructions, dB | 12.000 |" in text and "vae.encode" in text


def test_pictures_of_a_users_folder_stay_in_the_run(base, copy, tmp_path):
    run = copy / "long"
    scenes = load_clevrtex(ClevrtexData(**load_run(run).recipe["data"]))
    for split in ("train", "val"):
        folder = tmp_path / "photographs" / "images" / split
        folder.mkdir(parents=True)
        for number, array in enumerate(pixels_of(scenes[split][:6])):
            Image.fromarray(array).save(folder / f"{number + (100 if split == 'val' else 0)}.png")
    recipe = (run / "recipe.yaml").read_text()
    path = f"path: {tmp_path / 'photographs'}\n  missing_masks: allow"
    (run / "recipe.yaml").write_text(recipe.replace("difficulty: plain", path))
    assert evaluate_all.main([str(run), *CALL]) == 0
    assert not (run / "figures" / "reconstructions.png").exists()
    assert (run / "galleries" / "reconstructions.png").is_file()
    assert "photographs" in (run / "README.md").read_text() and str(tmp_path) not in (run / "metrics.json").read_text()


def test_a_missing_processor_is_named(copy):
    (copy / "long" / "preprocessor_config.json").unlink()
    with pytest.raises(RunError, match="no image processor"):
        vae.Autoencoder(load_run(copy / "long"), evaluate_all.Options(device="cpu"))
