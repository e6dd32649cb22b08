"""The baselines without learning against scikit-learn, NumPy and counting by hand, and what is said beside them."""

import time

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import wilcoxon
from sklearn.metrics import adjusted_rand_score

from data.scenes import render_scene
from evaluation.comparison import Column
from evaluation.paired_scores import above_baseline, reference_row
from evaluation.predictions import ScenePredictions
from evaluation.runs import Run
from evaluation.scene_baselines import (
    Grid,
    baseline_numbers,
    best_grid,
    choose_grid,
    mean_colour_errors,
    measure_baselines,
)
from evaluation.scene_data import SceneSplit
from evaluation.scene_observations import observe_scenes
from evaluation.scene_results import headline, results_table
from evaluation.scene_scores import FOREGROUND, score

COUNT, SIZE = 12, 20


def split_of(images: np.ndarray, masks: np.ndarray, name: str = "val", masked: int | None = None) -> SceneSplit:
    known = np.arange(len(images)) < (len(images) if masked is None else masked)
    rows = {
        "pixels": [image.tobytes() for image in images],
        "mask": [mask.tobytes() if has else None for mask, has in zip(masks, known, strict=True)],
        "has_mask": known,
        "id": list(range(len(images))),
        "path": [f"{i}" for i in range(len(images))],
    }
    return SceneSplit(name, Dataset.from_dict(rows))


@pytest.fixture(scope="module")
def drawn():
    scenes = [render_scene("val", i, 0, SIZE, "plain", 2, 4) for i in range(COUNT)]
    return np.stack([scene.image for scene in scenes]), np.stack([scene.mask for scene in scenes])


def predictions(split: SceneSplit, segments: np.ndarray, errors: np.ndarray | None = None) -> ScenePredictions:
    """Of a model with these masks and squared errors, scored."""
    errors = np.full(len(split), 5.0) if errors is None else errors
    made = ScenePredictions(split.ids, segments, np.zeros(len(split), np.float32), errors, np.full(len(split), np.nan))
    score(made, split)
    return made


def test_the_cells_are_equal_rectangles_numbered_row_by_row():
    found = Grid(2, 3).segments(4, 12)
    assert found.shape == (4, 12, 12) and found.dtype == np.uint8 and np.array_equal(found[0], found[3])
    y, x = np.mgrid[:12, :12] / 12
    np.testing.assert_array_equal(found[0], (y * 2).astype(int) * 3 + (x * 3).astype(int))
    uneven = np.bincount(Grid(3, 1).segments(1, 16).ravel()) // 16
    assert uneven.sum() == 16 and uneven.max() - uneven.min() <= 1
    assert not Grid(1, 1).segments(1, 8).any()


def test_the_scores_of_the_grid_are_scikit_learns_and_the_differences_wilcoxons(drawn):
    split, grid = split_of(*drawn), Grid(2, 2)
    model = predictions(split, np.where(np.arange(SIZE) < 10, drawn[1], 0).astype(np.uint8))
    numbers, beside = baseline_numbers(split, model, grid)
    cells = np.add.outer(2 * (np.arange(SIZE) >= 10), 1 * (np.arange(SIZE) >= 10))
    foreground = np.array([adjusted_rand_score(mask[mask > 0], cells[mask > 0]) for mask in drawn[1]])
    every = [adjusted_rand_score(mask.ravel(), cells.ravel()) for mask in drawn[1]]
    assert numbers[f"grid_{FOREGROUND}"] == pytest.approx(foreground.mean(), abs=1e-12)
    assert numbers["grid_adjusted_rand_index"] == pytest.approx(np.mean(every), abs=1e-12)
    assert {"grid_mean_iou", "grid_foreground_mean_iou", "grid_mean_best_overlap_interval"} < set(numbers)
    differences = model.foreground_scores - foreground
    assert beside["grid"]["difference"] == pytest.approx(differences.mean())
    assert beside["grid"]["p_value"] == pytest.approx(wilcoxon(differences).pvalue)
    assert beside["grid"]["interval"][0] < differences.mean() < beside["grid"]["interval"][1]


def test_the_grid_is_the_best_of_those_that_are_small_enough(drawn):
    _, masks = drawn

    def quality(rows: int, columns: int) -> float:
        cells = Grid(rows, columns).segments(1, SIZE)[0]
        return np.mean([adjusted_rand_score(mask[mask > 0], cells[mask > 0]) for mask in masks])

    allowed = [(rows, columns) for rows in range(1, 6) for columns in range(1, 6) if rows * columns <= 5]
    found = best_grid(masks, 5)
    assert (found.rows, found.columns) == max(allowed, key=lambda grid: quality(*grid))
    assert best_grid(masks, 1) == Grid(1, 1)
    halves = np.zeros((3, 8, 8), np.uint8)
    halves[:, :, :4], halves[:, :, 4:] = 1, 2
    assert best_grid(halves, 7) == Grid(1, 2)
    assert best_grid(np.zeros((3, 8, 8), np.uint8), 4) == Grid(1, 1)  # no object: over all pixels


def test_the_error_of_the_mean_colour_is_numpys(drawn):
    images = drawn[0]
    expected = (images / 255).var(axis=(1, 2)).sum(axis=-1) * SIZE**2
    split = split_of(*drawn)
    np.testing.assert_allclose(mean_colour_errors(split, np.arange(COUNT)), expected, rtol=1e-6)
    errors = np.where(np.arange(COUNT) % 3 == 0, expected + 2.0, np.nan)
    numbers, beside = baseline_numbers(split, predictions(split, drawn[1], errors), None)
    assert numbers["mean_colour_reconstruction_mse"] == pytest.approx(expected[::3].mean())
    assert beside["mean_colour"]["difference"] == pytest.approx(2.0) and beside["mean_colour"]["samples"] == 4
    assert not any(key.startswith("grid_") for key in numbers) and "grid" not in beside


def test_a_split_without_masks_has_no_grid_and_another_chooses_it(drawn):
    bare, masked = split_of(*drawn, "val", masked=0), split_of(*drawn, "test", masked=5)
    made = {"val": predictions(bare, drawn[1]), "test": predictions(masked, drawn[1])}
    found = measure_baselines({"val": bare, "test": masked}, made, 4)
    assert found.facts["grid"]["chosen_on"] == "test" and found.facts["grid"]["at_most"] == 4
    assert found.grid == choose_grid(masked, 4) == best_grid(drawn[1][:5], 4)
    assert set(found.numbers["val"]) == {
        "mean_colour_reconstruction_mse",
        "mean_colour_reconstruction_mse_interval",
    }
    assert found.facts["splits"]["test"]["grid"]["samples"] == 5 and "grid" not in found.facts["splits"]["val"]
    alone = measure_baselines({"val": bare}, made, 4)
    assert alone.grid is None and alone.facts["grid"] is None


def evaluated(tmp_path, drawn, segments, errors) -> Run:
    """A run whose evaluation found these masks and errors on validation."""
    split = split_of(*drawn)
    made = predictions(split, segments, errors)
    numbers, details = score(made, split)
    found = measure_baselines({"val": split}, {"val": made}, 4)
    content = {"metrics": {"val": numbers | found.numbers["val"]}}
    content["evaluation"] = {"splits": {"val": details}, "baselines": found.facts}
    run = Run(tmp_path, {"data": {}}, {"num_slots": 4}, content)
    run.evaluation["observations"] = observe_scenes(run)
    return run


def said(run: Run) -> str:
    return " ".join(run.evaluation["observations"]).replace("\u00a0", " ")


def test_a_model_below_the_baselines_is_said_to_be_below(tmp_path, drawn):
    flat = mean_colour_errors(split_of(*drawn), np.arange(COUNT))
    run = evaluated(tmp_path, drawn, np.zeros_like(drawn[1]), flat + np.linspace(3, 5, COUNT))
    numbers = run.metrics["metrics"]["val"]
    grid = run.evaluation["baselines"]["grid"]
    gap = 100 * numbers[f"grid_{FOREGROUND}"]
    assert numbers[FOREGROUND] == 0 < gap
    assert f"A fixed grid of {grid['rows']} x {grid['columns']} rectangles" in said(run)
    assert f"has foreground ARI {gap:.1f} %" in said(run) and f"the model is {gap:.1f} points below it (p" in said(run)
    assert "less well than rectangles that ignore the picture" in said(run)
    assert "is 4.0 above it, worse than painting one colour" in said(run)
    table = results_table(run)
    assert [row[0] for row in table.rows] == ["validation", "no learning, validation"]
    assert table.rows[1][1].value == f"{gap:.1f}\u00a0%" and table.rows[1][6].value == f"{flat.mean():.1f}"
    assert "the best by foreground ARI on validation" in table.caption
    notes = [note.replace("\u00a0", " ") for _, _, note in headline(run, "val")]
    assert notes[0].endswith(f"fixed grid {gap:.1f} %") and notes[3] == f"mean colour {flat.mean():.1f}"


def test_a_model_above_the_baselines_is_said_to_be_above(tmp_path, drawn):
    flat = mean_colour_errors(split_of(*drawn), np.arange(COUNT))
    run = evaluated(tmp_path, drawn, drawn[1], flat / 4)
    gap = 100 * (1 - run.metrics["metrics"]["val"][f"grid_{FOREGROUND}"])
    assert f"the model is {gap:.1f} points above it (p" in said(run) and "points below" not in said(run)
    assert "part the objects better than their place alone does" in said(run)
    assert f"is {0.75 * flat.mean():.1f} below it (p" in said(run) and "25 % of it" in said(run)


def test_a_foreground_score_like_the_grids_is_called_so(tmp_path, drawn):
    grid = best_grid(drawn[1], 4)
    cells = np.where(drawn[1] > 0, grid.segments(COUNT, SIZE), 255).astype(np.uint8)  # the grid, cut out by the objects
    flat = mean_colour_errors(split_of(*drawn), np.arange(COUNT))
    run = evaluated(tmp_path, drawn, cells, flat + np.where(np.arange(COUNT) % 2, 1, -1))
    assert "0.0 points above it, not told apart from it (p = 1.000)" in said(run)
    assert "these masks are not told apart from such rectangles; by ARI over all pixels" in said(run)
    assert "is not told apart from it (p" in said(run)


def test_the_baselines_stand_below_the_runs_as_far_as_they_are_the_same(tmp_path):
    columns = [Column("ARI", "val", "ari"), Column("MSE", "val", "mse", min, share=False)]
    runs = [
        Run(tmp_path / name, {}, {}, {"metrics": {"val": {"ari": value, "grid_ari": 0.6, "grid_mse": value}}})
        for name, value in (("a", 0.7), ("b", 0.5))
    ]
    row = reference_row(runs, columns, "grid_", "fixed grid")
    assert [cell.value for cell in row] == ["fixed grid", "60.0\u00a0%", "\u2013"]
    assert reference_row(runs, columns, "colour_", "mean colour") is None
    (sentence,) = above_baseline(runs, "val", "ari", "grid_", "ARI of the grid")
    expected = "ARI of the grid (60.0 % on validation): above it a (10.0 points); at it or below b (10.0 points)."
    assert sentence.replace("\u00a0", " ") == expected
    assert above_baseline(runs, "val", "mse", "none_", "x") == []


def test_five_hundred_scenes_take_seconds_and_give_the_same_again(drawn):
    images, masks = (np.tile(array, (42, 3, 3, *[1] * (array.ndim - 3)))[:500, :60, :60] for array in drawn)
    split = split_of(images, masks)
    made = predictions(split, masks)
    started = time.process_time()
    first = measure_baselines({"val": split}, {"val": made}, 7)
    assert time.process_time() - started < 4  # the aim is 2: machines differ
    assert first == measure_baselines({"val": split}, {"val": made}, 7)
