"""The evaluation of a small Slot Attention run, from its folder to report, card, comparison and published files."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from trained_slotattn import make_run

import evaluate_all
from data.clevrtex import ClevrtexData, load_clevrtex, masks_of, pixels_of
from evaluation import composition
from evaluation.options import Options
from evaluation.predictions import ScenePredictions, load_predictions
from evaluation.runs import RunError, load_run
from evaluation.scene_baselines import Grid
from evaluation.scene_data import SceneSplit, load_other_scenes, load_scenes
from evaluation.scene_evaluation import settings
from evaluation.scene_model import SceneModel
from evaluation.scene_scores import FOREGROUND, predict, score, segmentation_numbers
from evaluation.slot_library import SlotLibrary
from models import SlotAttentionAutoencoder
from training.slot_noise import EVALUATION_STREAM, slot_noise

FIGURES = {"curves.png", "foreground_ari.png", "by_objects.png", "by_size.png"}
SHEETS = {"scenes.png", "clusters.png", "composed.png"}
CALL = ["--device", "cpu", "--library-images", "30"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def study(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "study"
    make_run(root / "one", base)
    make_run(root / "two", base, seed=43)
    assert evaluate_all.main([str(root), *CALL]) == 0
    return root


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def scene_model(folder, **options):
    return SceneModel(load_run(folder), Options(device="cpu", **options))


def test_every_run_gets_its_files_and_the_study_its_comparison(study):
    for run in (study / "one", study / "two"):
        for name in ("report.html", "README.md", "predictions.npz", "slot_library.npz", "galleries/scenes.json"):
            assert (run / name).is_file(), name
        assert {path.name for path in (run / "figures").iterdir()} == FIGURES | SHEETS
        assert set(metrics_of(run)["metrics"]) == {"train", "val", "test"}
    said = json.loads((study / "comparison.json").read_text())
    assert said["differing"] == {"training.seed": [42, 43]}
    sentences = " ".join(said["observations"]).replace("\u00a0", " ")
    assert "one, two, 2 seeds: validation foreground ARI is" in sentences and "Wilcoxon" in sentences
    assert "fixed grid, no learning" in (study / "comparison.html").read_text()
    assert "Foreground ARI of a fixed grid, which ignores the picture (" in sentences
    values = [metrics_of(study / name)["metrics"]["val"][FOREGROUND] for name in ("one", "two")]
    assert f"{100 * np.mean(values):.1f} % on average" in sentences


def test_the_numbers_are_those_of_the_model_scene_by_scene(study):
    folder = study / "one"
    recipe = load_run(folder).recipe
    split = load_clevrtex(ClevrtexData(**recipe["data"]))["test"]
    model = SlotAttentionAutoencoder.from_pretrained(folder).eval()
    losses, errors, scores = [], [], []
    for row in split:
        image = torch.from_numpy(pixels_of(row).copy()).permute(0, 3, 1, 2).float()
        noise = slot_noise([row["id"]], EVALUATION_STREAM, 4, 16, 42)
        with torch.no_grad():
            output = model(image / 127.5 - 1, slot_noise=noise)
        losses.append(output.loss.item())
        errors.append((((output.reconstruction + 1) / 2).clamp(0, 1) - image / 255).square().sum().item())
        true, found = masks_of(row).ravel(), output.masks[0].argmax(0).numpy().ravel()
        scores.append(adjusted_rand_score(true[true > 0], found[true > 0]))
    numbers = metrics_of(folder)["metrics"]["test"]
    assert numbers["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert numbers["reconstruction_mse"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert numbers[FOREGROUND] == pytest.approx(np.mean(scores), abs=1e-3)
    assert numbers["samples"] == 5


def test_segmentations_do_not_depend_on_the_batch(study):
    split = SceneSplit("val", load_scenes(load_run(study / "one"))["val"])
    one, other = (predict(scene_model(study / "one", batch_size=size), split) for size in (8, 3))
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-4)
    assert (one.segments == other.segments).mean() > 0.99
    turned = SceneSplit("val", split.rows.select(range(7, -1, -1)))
    assert (predict(scene_model(study / "one"), turned).segments[::-1] == one.segments).mean() > 0.99


def test_a_second_evaluation_takes_what_is_stored(copy, capsys, monkeypatch):
    run = copy / "one"
    before = metrics_of(run)
    assert evaluate_all.main([str(run), *CALL]) == 0
    assert "(up to date)" in capsys.readouterr().out
    history = run / "history.csv"
    history.write_text(history.read_text().replace("0.6", "0.7"))
    monkeypatch.setattr("evaluation.scene_evaluation.predict", lambda *_: pytest.fail("predicted again"))
    monkeypatch.setattr(SlotLibrary, "build", lambda *_: pytest.fail("clustered again"))
    monkeypatch.setattr(composition, "features_of", lambda *_: pytest.fail("features computed again"))
    assert evaluate_all.main([str(run), *CALL]) == 0
    after = metrics_of(run)
    assert after["metrics"] == before["metrics"]
    assert any("peaked at epoch 2 with 70.0" in sentence for sentence in after["evaluation"]["observations"])


def test_the_library_is_of_training_slots_and_what_is_composed_is_decoded_from_it(study):
    folder = study / "one"
    library, model = SlotLibrary.load(folder), scene_model(folder)
    train = load_scenes(load_run(folder))["train"]
    assert library.slots.shape == (30, 4, 16) and set(library.ids.tolist()) <= set(train["id"][:])
    images, ids = pixels_of(train[:]), np.array(train["id"][:])
    row = int(np.flatnonzero(ids == library.ids[7])[0])
    np.testing.assert_allclose(library.slots[7], model.slots(images[row : row + 1], ids[row : row + 1])[0], atol=1e-4)
    composed = composition.compose(model, library, 6)
    assert composed.shape == (6, 16, 16, 3) and composed.dtype == np.uint8
    small = scene_model(folder, batch_size=4)
    assert np.abs(composition.compose(small, library, 6).astype(int) - composed).max() <= 1
    with torch.no_grad():
        direct = model.model.decode(torch.from_numpy(library.draw(1, composition.SEED, 3))).reconstruction
    assert np.abs(((direct[0] + 1) * 127.5).permute(1, 2, 0).numpy().clip(0, 255) - composed[3]).max() <= 1


def test_the_distance_carries_the_name_of_its_features(study):
    made = metrics_of(study / "one")["evaluation"]["composition"]
    numbers = metrics_of(study / "one")["metrics"]["val"]
    assert made["images"] == 8 and made["library_images"] == 30 and made["slots"] == 120
    if "unavailable" in made:
        assert "no feature extractor" in made["unavailable"]
        return
    assert made["metric"] in ("fid_clean", "frechet_efficientnet_lite0")
    assert ("inception" in made["not_at_hand"]) == (made["metric"] != "fid_clean")
    assert numbers[made["metric"]] == made["value"] > 0 and made["train"] > 0 and made["full_rank"] is False
    html = (study / "one" / "report.html").read_text()
    assert made["metric"] in html and f"{made['value']:.1f}" in html


def test_one_validation_scene_and_fewer_different_slots_than_clusters(base, tmp_path):
    folder = make_run(tmp_path / "one", base, data={"num_val": 1, "num_test": 0})
    model = SlotAttentionAutoencoder.from_pretrained(folder)
    with torch.no_grad():
        model.model.slot_attention.slots_log_sigma.fill_(-200)  # all slots start, and so stay, the same
    model.save_pretrained(folder)
    assert evaluate_all.main([str(folder), *CALL[:-1], "2"]) == 0
    made = metrics_of(folder)["evaluation"]["composition"]
    assert made["clusters"] <= 2 < made["clusters_requested"] == 4
    assert "at least 2" in made["unavailable"] and "value" not in made
    said = " ".join(metrics_of(folder)["evaluation"]["observations"])
    assert "4 were asked for" in said and "was not computed" in said
    assert (folder / "figures" / "composed.png").is_file()


def drawn(base, **fields):
    """Embedded scenes of another kind than the run's."""
    return load_clevrtex(ClevrtexData(difficulty="hard", num_test=0, cache_dir=str(base / "cache"), **fields), need=())


def other_data(base, folder):
    """An .npz file of six scenes, and masks in it that miss the first object of each."""
    rows = drawn(base, image_size=32, num_train=0, num_val=6, seed=5)["val"][:]
    masks = masks_of(rows)
    path = folder / "others.npz"
    np.savez(path, image=pixels_of(rows), mask=masks, predicted_mask=np.where(masks == 1, 0, masks), index=np.arange(6))
    return path


def test_pictures_of_train_are_no_yardstick_for_themselves(base, tmp_path):
    run = make_run(tmp_path / "alone", base)
    assert evaluate_all.main([str(run), *CALL, "--splits", "train"]) == 0
    made = metrics_of(run)["evaluation"]["composition"]
    assert "train" not in made and ("reconstruction" in made or "unavailable" in made)


def test_other_data_are_measured_beside_the_masks_that_came_with_them(base, copy, tmp_path):
    path = other_data(base, tmp_path)
    run = copy / "one"
    assert evaluate_all.main([str(run), *CALL, "--data", str(path)]) == 0
    entry = metrics_of(run)["evaluation"]["other_data"]["others"]
    assert entry["numbers"]["samples"] == 6 and entry["image_size"] == 16 and entry["slots"] == 4
    scored = ClevrtexData(path=str(path), image_size=16, val_fraction=1, cache_dir=str(base / "cache"))
    split = load_clevrtex(scored, need=())["val"]
    pairs = zip(masks_of(split[:]), masks_of(split[:], "predicted_mask"), strict=True)
    expected = np.mean([adjusted_rand_score(t.ravel(), p.ravel()) for t, p in pairs])
    assert entry["given"]["adjusted_rand_index"] == pytest.approx(expected)
    assert entry["more_objects_than_slots"] == sum(len(np.unique(mask)) > 4 for mask in masks_of(split[:]))
    grid = Grid(*(metrics_of(run)["evaluation"]["baselines"]["grid"][side] for side in ("rows", "columns")))
    pairs = zip(masks_of(split[:]), grid.segments(6, 16), strict=True)
    expected = np.mean([adjusted_rand_score(t.ravel(), p.ravel()) for t, p in pairs])
    assert entry["numbers"]["grid_adjusted_rand_index"] == pytest.approx(expected)
    html = (run / "report.html").read_text()
    assert "no learning, as above" in html and "Other data" in html and "masks that came" in html
    assert str(tmp_path) not in (run / "metrics.json").read_text()
    known = settings(load_run(run), Options())
    assert settings(load_run(run), Options(data=path)) == known != settings(load_run(copy / "two"), Options())
    (run / "history.csv").unlink()
    assert evaluate_all.main([str(run), *CALL]) == 0  # measured before: nothing is lost
    assert metrics_of(run)["evaluation"]["other_data"]["others"] == entry
    assert {path.name for path in (run / "figures").iterdir()} == FIGURES | SHEETS


def test_other_data_count_as_changed_where_one_file_in_a_folder_has(copy, tmp_path):
    folder = tmp_path / "others"
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "1.png").write_bytes(b"one")
    before = settings(load_run(copy / "one"), Options(data=folder))
    assert settings(load_run(copy / "one"), Options(data=folder)) == before
    (folder / "masks" / "1.png").write_bytes(b"other")
    assert settings(load_run(copy / "one"), Options(data=folder)) != before


def test_the_real_scenes_are_measured(study, shared):
    path = shared / "data" / "clevrtex_real" / "scenes25.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    split = load_other_scenes(load_run(study / "one"), path)
    rows = np.arange(len(split))
    given, _ = segmentation_numbers(split.masks(rows, "predicted_mask"), split.masks(rows))
    numbers, _ = score(predict(scene_model(study / "one"), split), split)
    assert numbers["samples"] == 25 and given[FOREGROUND] > 0.8 > numbers[FOREGROUND]


@pytest.mark.parametrize("call", [["--data", "nowhere.npz"], ["--library-images", "-1"]])
def test_options_are_checked(call):
    with pytest.raises(SystemExit):
        evaluate_all.main(call)


def test_pictures_of_a_users_folder_stay_in_the_run(base, tmp_path):
    scenes = drawn(base, image_size=16, num_train=12, num_val=6, max_objects_drawn=5)
    for split in ("train", "val"):
        for kind, arrays in (("images", pixels_of(scenes[split][:])), ("masks", masks_of(scenes[split][:]))):
            folder = tmp_path / "photographs" / kind / split
            folder.mkdir(parents=True)
            for number, array in enumerate(arrays):
                Image.fromarray(array).save(folder / f"{number + (100 if split == 'val' else 0)}.png")
    run = make_run(tmp_path / "runs" / "one", base)
    recipe = (run / "recipe.yaml").read_text().replace("difficulty: plain", f"path: {tmp_path / 'photographs'}")
    (run / "recipe.yaml").write_text(recipe.replace("name: study/one", "name: photographs"))
    (run / "figures").mkdir()
    (run / "figures" / "scenes.png").write_bytes(b"left from before")
    assert evaluate_all.main([str(run), *CALL, "--publish", str(tmp_path / "cards")]) == 0
    for given in (tmp_path / "photographs", tmp_path / "photographs" / "images" / "val", tmp_path):
        with pytest.raises(RunError, match="the run was trained on it"):
            load_other_scenes(load_run(run), given)
    target = tmp_path / "cards" / "slotattn-photographs"
    published = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert published == {"README.md", "metrics.json", "history.csv", *(f"figures/{name}" for name in FIGURES)}
    assert {path.name for path in (run / "galleries").iterdir()} == SHEETS | {"scenes.json"}
    assert not re.search("scenes.png|galleries", (target / "README.md").read_text())
    assert "photographs" in (target / "README.md").read_text()


def test_the_card_loads_back_and_shows_pictures_of_drawn_scenes(study, tmp_path):
    assert evaluate_all.main([str(study / "one"), *CALL, "--publish", str(tmp_path)]) == 0
    target = tmp_path / "slotattn-study-one"
    assert {path.name for path in (target / "figures").iterdir()} == FIGURES | SHEETS
    card = ModelCard.load(target / "README.md")
    numbers = metrics_of(study / "one")["metrics"]
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert measured["test", FOREGROUND] == pytest.approx(numbers["test"][FOREGROUND], abs=1e-6)
    assert measured["validation", "mean_iou"] == pytest.approx(numbers["val"]["mean_iou"], abs=1e-6)
    assert all(f"](figures/{name})" in card.text for name in SHEETS)
    grid = 100 * numbers["val"][f"grid_{FOREGROUND}"]
    assert "| Fixed grid, no learning: ARI, foreground |" in card.text and f"{grid:.1f}\u00a0%" in card.text
    assert not any("grid" in r.metric_type for r in card.data.eval_results)
    assert "slot_library" not in " ".join(path.name for path in target.rglob("*"))
    assert "trust_remote_code=True" in card.text


def test_the_report_says_the_numbers_and_shows_every_slot(study):
    html = (study / "one" / "report.html").read_text().replace("\u00a0", " ")
    for numbers in metrics_of(study / "one")["metrics"].values():
        assert f"{100 * numbers[FOREGROUND]:.1f} %" in html and f"{numbers['loss']:.4f}" in html
        assert f"{100 * numbers[f'grid_{FOREGROUND}']:.1f} %" in html
        assert f"{numbers['mean_colour_reconstruction_mse']:.1f}" in html
    assert "no learning, validation" in html and "A fixed grid of" in html
    assert len(re.findall(r"<span>slot \d</span>", html)) == 4 * 6  # of two scenes of each kind
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)


def test_data_of_another_version_and_missing_processors_are_named(copy):
    run = copy / "one"
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("min_objects", "least_objects"))
    with pytest.raises(RunError, match="unknown data field 'least_objects'"):
        load_scenes(load_run(run))
    (run / "recipe.yaml").write_text(recipe)
    (run / "preprocessor_config.json").unlink()
    with pytest.raises(RunError, match="no image processor"):
        scene_model(run)


def test_stored_scores_are_those_of_the_stored_segments(study):
    stored = load_predictions(study / "one", None, ScenePredictions)
    assert set(stored) == {"train", "val", "test"}
    numbers = metrics_of(study / "one")["metrics"]
    for name, predicted in stored.items():
        assert np.nanmean(predicted.foreground_scores) == pytest.approx(numbers[name][FOREGROUND])
