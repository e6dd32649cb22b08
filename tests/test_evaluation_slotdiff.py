"""The evaluation of a small slot diffusion run, from its folder to report, card and the page beside Slot Attention."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import trained_slotattn
from huggingface_hub import ModelCard
from PIL import Image
from quick_features import NAME, QuickMetric, quick_metric
from sklearn.metrics import adjusted_rand_score
from trained_slotdiff import LENGTH, make_run

import evaluate_all
from data.clevrtex import ClevrtexData, load_clevrtex, masks_of, pixels_of
from evaluation import composition, samplers, slot_editing
from evaluation.card import write_card
from evaluation.diffusion_scene_model import COMPOSED_SEED, SCENE_SEED, DiffusionSceneModel
from evaluation.options import Options
from evaluation.predictions import ScenePredictions, load_predictions
from evaluation.runs import load_run
from evaluation.samplers import samplers_of
from evaluation.scene_data import SceneSplit, load_scenes
from evaluation.scene_scores import FOREGROUND, predict
from evaluation.segment import main as segment
from evaluation.slot_editing import Roles
from evaluation.slot_library import SlotLibrary
from models import SlotDiffusionModel, SlotDiffusionPipeline
from training.diffusion_noise import diffusion_draws
from training.slot_noise import EVALUATION_STREAM, slot_noise

FIGURES = {"curves.png", "foreground_ari.png", "by_objects.png", "by_size.png", "samplers.png"}
SHEETS = {"scenes.png", "clusters.png", "composed.png", "edits.png", "samples.png"}
CALL = ["--device", "cpu", "--library-images", "20", "--sampled-images", "6", "--sampler-images", "4"]


@pytest.fixture(scope="module", autouse=True)
def quick_features():
    """Distances in cheap features: what they are is another module's test."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (composition, samplers):
            patch.setattr(module, "first_metric", quick_metric)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("runs") / "slotdiff" / "one", base)
    assert evaluate_all.main([str(folder), *CALL]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "slotdiff" / "one")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def scene_model(folder, **options):
    return DiffusionSceneModel(load_run(folder), Options(device="cpu", **options))


def scenes(folder, name):
    return SceneSplit(name, load_scenes(load_run(folder))[name])


def test_a_run_gets_its_files(run):
    for name in ("report.html", "README.md", "predictions.npz", "slot_library.npz", "generated.json"):
        assert (run / name).is_file(), name
    assert {path.name for path in (run / "figures").iterdir()} == FIGURES | SHEETS
    assert set(metrics_of(run)["metrics"]) == {"train", "val", "test"}


def test_scores_and_losses_are_those_of_the_model_scene_by_scene(run):
    rows = load_clevrtex(ClevrtexData(**load_run(run).recipe["data"]))["test"]
    model = SlotDiffusionModel.from_pretrained(run).eval()
    losses, scores = [], []
    for row in rows:
        image = torch.from_numpy(pixels_of(row).copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = slot_noise([row["id"]], EVALUATION_STREAM, 4, 16, 42)
        timesteps, noises = diffusion_draws([row["id"]], EVALUATION_STREAM, (3, 4, 4), LENGTH, 42)
        with torch.no_grad():
            output = model(image, slot_noise=noise, timesteps=timesteps, noise=noises)
        losses.append(output.loss.item())
        true, found = masks_of(row).ravel(), output.masks[0].argmax(0).numpy().ravel()
        scores.append(adjusted_rand_score(true[true > 0], found[true > 0]))
    numbers = metrics_of(run)["metrics"]["test"]
    assert numbers["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert numbers[FOREGROUND] == pytest.approx(np.mean(scores), abs=1e-3)


def test_only_as_many_scenes_are_sampled_as_asked_for_and_it_is_said(run):
    numbers = metrics_of(run)["metrics"]
    assert numbers["val"]["samples"] == 8 and numbers["val"]["reconstructed"] == 6
    assert numbers["train"]["reconstructed"] == 6 and "reconstructed" not in numbers["test"]
    errors = load_predictions(run, None, ScenePredictions)["val"].squared_errors
    assert np.isnan(errors).sum() == 2 and numbers["val"]["reconstruction_mse"] == pytest.approx(np.nanmean(errors))
    assert "6 in val" in (run / "report.html").read_text()
    assert metrics_of(run)["evaluation"]["composition"]["images"] == 6


def test_a_reconstruction_is_the_pipelines_sample_of_the_scenes_own_slots(run):
    split, model = scenes(run, "val"), scene_model(run)
    found = model.segment(split.images([3]), split.ids[[3]])
    pipeline = SlotDiffusionPipeline.from_pretrained(run)
    slots = torch.from_numpy(found.slots)
    how = {"scheduler": "dpmsolver++", "num_inference_steps": 9, "progress_bar": False}
    made = pipeline(slots=slots, seed=SCENE_SEED, sample_ids=split.ids[[3]].tolist(), **how)
    pixels = ((made.images[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(found.pixels[0] - pixels).max() <= 1
    library = SlotLibrary.load(run)
    composed = composition.compose(model, library, 3)
    slots = torch.from_numpy(library.draw(1, composition.SEED, 2))
    made = pipeline(slots=slots, seed=COMPOSED_SEED, sample_ids=[2], **how)
    assert np.abs(composed[2] - ((made.images[0] + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 1


def test_results_do_not_depend_on_the_batch_and_nothing_is_sampled_twice(run, monkeypatch):
    split = scenes(run, "val")
    one, other = (predict(scene_model(run, batch_size=size, sampled_images=6), split, True) for size in (8, 3))
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-3)
    np.testing.assert_allclose(one.squared_errors, other.squared_errors, rtol=2e-2)
    assert np.array_equal(np.isnan(one.squared_errors), np.isnan(other.squared_errors))
    assert (one.segments == other.segments).mean() > 0.99
    model = scene_model(run)
    first = model.segment(split.images([0, 1]), split.ids[:2]).pixels
    monkeypatch.setattr(model, "sample", lambda *_: pytest.fail("sampled again"))
    assert np.array_equal(model.segment(split.images([1]), split.ids[[1]]).pixels[0], first[1])


def test_samplers_are_compared_on_the_same_slots_and_noise(run):
    study = metrics_of(run)["evaluation"]["samplers"]
    assert [row["label"] for row in study["samplers"]] == ["ancestral 10", "DDIM 10", "DPM-Solver++ 9"]
    assert study["images"] == 4 and study["of"] == 8 and study["draws"] == 3 and study["metric"] == NAME
    split, model = scenes(run, "val"), scene_model(run)
    part = split.spread(4)
    images = part.images(range(4))
    slots = torch.from_numpy(model.slots(images, part.ids))
    row = study["samplers"][2]
    references = QuickMetric().extract(split.images(range(8)))
    for draw in range(3):
        made = model.sample(slots, range(4 * draw, 4 * draw + 4), samplers.SEED, "dpmsolver++", 9)
        error = np.square((made.astype(float) - images) / 255).sum(axis=(1, 2, 3))
        assert row["mse"][draw] == pytest.approx(error.mean(), rel=1e-3)
        distance = QuickMetric().compute(QuickMetric().extract(made), references)[NAME]
        assert row["distance"][draw] == pytest.approx(distance, rel=1e-2)
    assert row["seconds"] > 0 and len(row["errors"]) == 4
    assert study["floors"][0]["mse"] < min(min(r["mse"]) for r in study["samplers"])
    assert study["floors"][1]["mse"] == 0


def test_stored_times_of_another_number_of_threads_are_not_taken(run, monkeypatch):
    class Asked(Exception):
        pass

    class Asking:
        def remember(self, name, inputs, compute):
            raise Asked(inputs)

    def inputs_with(threads):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        with pytest.raises(Asked) as asked:
            samplers.compare_samplers(Asking(), scene_model(run), scenes(run, "val"), 4, "made from")
        return asked.value.args[0]

    assert inputs_with(1) == inputs_with(1) != inputs_with(2)


def test_the_chain_of_a_thousand_steps_has_four_samplers():
    assert [s.label for s in samplers_of(1000)] == ["ancestral 1000", "DDIM 200", "DDIM 50", "DPM-Solver++ 20"]
    assert [s.label for s in samplers_of(10)] == ["ancestral 10", "DDIM 10", "DPM-Solver++ 9"]


def test_an_edit_leaves_slots_out_and_swaps_them(run, monkeypatch):
    split, model = scenes(run, "val"), scene_model(run)
    positions = np.arange(8)
    found = model.segment(split.images(positions), split.ids, reconstruct=False)
    roles = [Roles.of(segments, 4) for segments in found.segments]
    usable = [i for i in positions if roles[i].objects]
    given = []

    def compose(slots, numbers, like_scenes=False):
        given.extend((own, number) for own, number in zip(slots, numbers, strict=True))
        return np.stack([np.full((16, 16, 3), len(own), np.uint8) for own in slots])

    monkeypatch.setattr(model, "compose", compose)
    rows, numbers = slot_editing.edit(model, split, positions)
    half = len(usable) // 2
    assert len(rows) == half > 0 and numbers["scenes"] == 2 * half
    a, b = usable[0], usable[half]
    assert rows[0].ids == (split.ids[a], split.ids[b]) and len(rows[0].pictures) == len(slot_editing.COLUMNS)
    assert [int(p[0, 0, 0]) for p in rows[0].pictures[2:4]] == [3, 4]
    assert int(rows[0].pictures[4][0, 0, 0]) == 1 + len(roles[b].objects)
    assert int(rows[0].pictures[5][0, 0, 0]) == 1 + len(roles[a].objects)
    swapped = [own for own, number in given if len(own) == 4 and number == split.ids[a]]
    taken, replaced = found.slots[b, roles[b].objects[0]], roles[a].objects[0]
    assert any(np.allclose(own[replaced], taken, atol=1e-4) for own in swapped)


def test_roles_go_by_the_pixels_won():
    segments = np.zeros((10, 20), np.uint8)
    segments[:, 12:15], segments[:2, 15:] = 2, 1
    assert Roles.of(segments, 4) == Roles(0, [2, 1])
    assert Roles.of(np.full((4, 4), 3), 4) == Roles(3, [])


def test_the_report_and_the_observations_say_the_numbers(run):
    metrics = metrics_of(run)
    html = (run / "report.html").read_text().replace("\u00a0", " ")
    evaluation = metrics["evaluation"]
    for numbers in metrics["metrics"].values():
        assert f"{100 * numbers[FOREGROUND]:.1f} %" in html and f"{numbers['loss']:.4f}" in html
        assert f"{numbers['mean_colour_reconstruction_mse']:.1f}" in html
    assert "no learning, validation" in html and "A fixed grid of" in html
    assert evaluation["baselines"]["splits"]["val"]["mean_colour"]["samples"] == 6  # those that were sampled
    for row in evaluation["samplers"]["samplers"]:
        assert row["label"] in html and f"{np.mean(row['mse']):.1f}" in html
    assert "The other 4 scenes were left out" in html and "object removed" in html
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    said = " ".join(evaluation["observations"]).replace("\u00a0", " ")
    slow, fast = evaluation["samplers"]["samplers"][0], evaluation["samplers"]["samplers"][2]
    assert f"DPM-Solver++ 9 is {slow['seconds'] / fast['seconds']:.1f} times as fast" in said
    assert "4 scenes cannot tell" in said and "DPM-Solver++, 9 steps, 6 scenes" in said
    assert f"by {100 * evaluation['edits']['removed_inside']:.1f} % of the range" in said


def test_a_second_evaluation_takes_what_is_stored(copy, capsys, monkeypatch, no_drawing):
    before = metrics_of(copy)
    assert evaluate_all.main([str(copy), *CALL]) == 0
    assert "(up to date)" in capsys.readouterr().out
    history = copy / "history.csv"
    history.write_text(history.read_text().replace("0.6", "0.7"))
    monkeypatch.setattr("evaluation.scene_evaluation.predict", lambda *_: pytest.fail("predicted again"))
    monkeypatch.setattr(SlotLibrary, "build", lambda *_: pytest.fail("clustered again"))
    monkeypatch.setattr(samplers, "squared_errors", lambda *_: pytest.fail("samplers measured again"))
    monkeypatch.setattr(composition, "features_of", lambda *_: pytest.fail("features computed again"))
    assert evaluate_all.main([str(copy), *CALL]) == 0
    after = metrics_of(copy)
    assert after["metrics"] == before["metrics"]
    assert after["evaluation"]["samplers"] == before["evaluation"]["samplers"]
    assert evaluate_all.main([str(copy), *CALL[:-1], "0"]) == 0
    after = metrics_of(copy)
    assert "samplers" not in after["evaluation"] and not (copy / "figures" / "samples.png").exists()
    assert any("--sampler-images 0" in sentence for sentence in after["evaluation"]["observations"])


def test_the_card_loads_back_and_works_before_the_evaluation(run, base, tmp_path):
    assert evaluate_all.main([str(run), *CALL, "--publish", str(tmp_path / "cards")]) == 0
    target = tmp_path / "cards" / "slotdiff-study-one"
    assert {path.name for path in (target / "figures").iterdir()} == FIGURES | SHEETS
    card = ModelCard.load(target / "README.md")
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert measured["test", FOREGROUND] == pytest.approx(metrics_of(run)["metrics"]["test"][FOREGROUND], abs=1e-6)
    assert all(f"](figures/{name})" in card.text for name in SHEETS)
    assert "| Each picture's own mean colour, no learning: MSE |" in card.text
    fresh = make_run(tmp_path / "fresh", base)
    assert "model.pipeline(processor)" in write_card(fresh).read_text()


def test_slot_attention_and_slot_diffusion_side_by_side(run, base, tmp_path, capsys):
    ours = shutil.copytree(run, tmp_path / "runs" / "slotdiff" / "one")
    other = trained_slotattn.make_run(tmp_path / "runs" / "slotattn" / "one", base)
    assert evaluate_all.main([str(other), str(ours), *CALL]) == 0
    page = tmp_path / "runs" / "side_by_side.html"
    assert str(page) in capsys.readouterr().out and not (tmp_path / "runs" / "comparison.html").exists()
    html = page.read_text().replace("\u00a0", " ")
    values = {folder: metrics_of(folder)["metrics"]["val"] for folder in (ours, other)}
    for numbers in values.values():
        assert f"{100 * numbers[FOREGROUND]:.1f} %" in html
    assert "slotattn/one" in html and "slotdiff/one" in html
    assert html.count("<span>from its slots</span>") >= 2 * 6  # of six scenes by each model
    said = " ".join(json.loads((tmp_path / "runs" / "side_by_side.json").read_text())["observations"])
    assert "Wilcoxon" in said and "On 6 validation scenes that all reconstructed" in said
    assert "slotattn/one 9,000 parameters" in said and "slotdiff/one 9,000 parameters (7,000 of them trained)" in said
    assert "Val loss" not in html
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("num_val: 8", "num_val: 7"))
    assert evaluate_all.main([str(other), str(ours), *CALL]) == 0
    assert "evaluated on different scenes" in page.read_text()
    said = " ".join(json.loads((tmp_path / "runs" / "side_by_side.json").read_text())["observations"])
    assert "measured on different data" in said and "that all reconstructed" not in said and "nearest first" not in said


def test_masks_of_own_pictures(run, tmp_path, capsys):
    pixels = np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    assert segment([str(run), str(tmp_path / "own.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    with np.load(tmp_path / "out" / "own_slots.npz", allow_pickle=False) as stored:
        assert stored["slots"].shape == (4, 16) and stored["reconstruction"].shape == (16, 16, 3)
        np.testing.assert_allclose(stored["masks"].sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("call", [["--sampler-images", "-1"], ["--sampled-images", "x"]])
def test_options_are_checked(call):
    with pytest.raises(SystemExit):
        evaluate_all.main(call)
