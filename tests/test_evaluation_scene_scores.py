"""Numbers of segmentations against scikit-learn and counting by hand; which scenes are shown."""

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import adjusted_rand_score

from evaluation import scene_figures
from evaluation.predictions import ScenePredictions, load_predictions, save_predictions
from evaluation.runs import RunError
from evaluation.scene_data import SceneSplit
from evaluation.scene_gallery import choose, ranked
from evaluation.scene_scores import FOREGROUND, _by_size, score
from metrics.bootstrap import interval


def scenes(count=24, size=20, seed=0, objects=4, masked=None):
    """True masks of up to `objects` rectangles, and predicted ones that are the truth with noise."""
    rng = np.random.default_rng(seed)
    true = np.zeros((count, size, size), np.uint8)
    for mask in true:
        for label in range(1, 1 + rng.integers(1, objects + 1)):
            top, left = rng.integers(0, size - 4, 2)
            mask[top : top + rng.integers(2, 8), left : left + rng.integers(2, 8)] = label
    predicted = np.where(rng.random(true.shape) < 0.15, rng.integers(0, 6, true.shape), true).astype(np.uint8)
    has_mask = np.ones(count, bool) if masked is None else np.arange(count) < masked
    rows = {
        "pixels": [b"\0" * 3 * size**2] * count,
        "mask": [mask.tobytes() if known else None for mask, known in zip(true, has_mask, strict=True)],
        "has_mask": has_mask,
        "id": list(range(100, 100 + count)),
        "path": [f"{i}" for i in range(count)],
    }
    split = SceneSplit("val", Dataset.from_dict(rows))
    losses, errors = rng.random(count).astype(np.float32), rng.random(count)
    return ScenePredictions(split.ids, predicted, losses, errors, np.full(count, np.nan)), split, true


def test_the_numbers_are_scikit_learns_per_scene():
    predicted, split, true = scenes()
    numbers, details = score(predicted, split)
    pairs = list(zip(true, predicted.segments, strict=True))
    foreground = [adjusted_rand_score(t[t > 0], p[t > 0]) for t, p in pairs]
    assert numbers[FOREGROUND] == pytest.approx(np.mean(foreground), abs=1e-12)
    np.testing.assert_allclose(predicted.foreground_scores, foreground, atol=1e-12)
    every = np.mean([adjusted_rand_score(t.ravel(), p.ravel()) for t, p in pairs])
    assert numbers["adjusted_rand_index"] == pytest.approx(every, abs=1e-12)
    low, high = numbers[f"{FOREGROUND}_interval"]
    assert low < numbers[FOREGROUND] < high
    assert numbers["loss"] == pytest.approx(predicted.losses.mean())
    assert numbers["reconstruction_mse"] == pytest.approx(predicted.squared_errors.mean())
    assert numbers["samples"] == 24 and "samples_with_masks" not in numbers
    assert details["histogram"]["solved"] == np.mean(np.array(foreground) >= 0.9)
    assert sum(details["histogram"]["counts"]) == 24


def test_the_details_are_those_of_counting_by_hand():
    predicted, split, true = scenes()
    _, details = score(predicted, split)
    overlaps, sizes, counts, used, floor, floor_overlap, swallowed = [], [], [], [], [], [], []
    for t, p in zip(true, predicted.segments, strict=True):
        labels = [label for label in np.unique(t) if label > 0]
        counts.append(len(labels))
        best = {
            label: max(((t == label) & (p == s)).sum() / ((t == label) | (p == s)).sum() for s in np.unique(p))
            for label in np.unique(t)
        }
        overlaps += [best[label] for label in labels]
        floor_overlap.append(best[0])
        own = {s: ((t == 0) & (p == s)).sum() / ((t == 0) | (p == s)).sum() for s in np.unique(p)}
        swallowed.append((p[t > 0] == max(own, key=own.get)).mean())
        sizes += [(t == label).mean() for label in labels]
        wins = [s for s in np.unique(p) if (p == s).mean() >= 0.005]
        used.append(len(wins))
        floor.append(sum(np.bincount(t[p == s]).argmax() == 0 for s in wins))
    sizes, overlaps = np.array(sizes), np.array(overlaps)
    assert details["slots"]["used"] == pytest.approx(np.mean(used))
    assert details["slots"]["objects"] == pytest.approx(np.mean(counts))
    assert details["slots"]["on_background"] == pytest.approx(np.mean(floor))
    assert details["slots"]["background_overlap"] == pytest.approx(np.mean(floor_overlap))
    assert details["slots"]["objects_in_background"] == pytest.approx(np.mean(swallowed))
    assert {int(k): v["samples"] for k, v in details["by_objects"].items()} == dict(
        zip(*np.unique(counts, return_counts=True), strict=True)
    )
    assert sum(row["objects"] for row in details["by_size"]) == len(sizes)
    for row in details["by_size"]:
        own = overlaps[(sizes >= row["low"]) & (sizes < row["high"])]
        assert row["objects"] == len(own) and row["overlap"] == pytest.approx(own.mean())
        assert row["found"] == pytest.approx((own >= 0.5).mean())


def test_intervals_by_size_are_over_scenes_not_objects():
    """20 scenes of 8 objects that are found or missed together: as uncertain as 20 objects, not as 160."""
    found = np.repeat(np.arange(20) % 2, 8).astype(float)
    rows = _by_size(np.full(160, 0.03), found, np.repeat(np.arange(20), 8))
    expected = {"low": 0.02, "high": 0.04, "objects": 160, "overlap": 0.5, "found": 0.5}
    assert rows == [expected | {"overlap_interval": interval([1, 0] * 10)}]


def test_scenes_without_masks_are_not_scored_but_counted():
    predicted, split, true = scenes(masked=10)
    numbers, _ = score(predicted, split)
    expected = [adjusted_rand_score(t.ravel(), p.ravel()) for t, p in zip(true[:10], predicted.segments, strict=False)]
    assert numbers["adjusted_rand_index"] == pytest.approx(np.mean(expected))
    assert (numbers["samples"], numbers["samples_with_masks"]) == (24, 10)
    assert np.isnan(predicted.foreground_scores[10:]).all()
    without, split, _ = scenes(masked=0)
    numbers, details = score(without, split)
    assert details == {} and set(numbers) == {"loss", "reconstruction_mse", "reconstruction_mse_interval", "samples"}


def test_the_worst_and_the_best_are_shown_in_a_fixed_order():
    predicted, _, _ = scenes(count=20)
    predicted.foreground_scores = np.array([0.5, np.nan, *np.linspace(0, 1, 16), 0.0, 1.0])
    predicted.ids = np.arange(20)[::-1].copy()
    shown = choose(predicted)
    assert shown["worst"].tolist() == [18, 2, 3, 4]  # 18 and 2 are tied at 0: the lower id first
    assert shown["best"].tolist() == [17, 19, 16, 15] and not set(shown["typical"]) & {*shown["worst"], *shown["best"]}
    assert len({i for kind in shown.values() for i in kind.tolist()}) == 12
    scores = predicted.foreground_scores[ranked(predicted)]
    assert np.isnan(scores[0]) and np.all(np.diff(scores[1:]) >= 0) and scores[-1] == 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_scenes_are_shown_once(count):
    predicted, split, _ = scenes(count=count)
    score(predicted, split)
    shown = [i for kind in choose(predicted).values() for i in kind.tolist()]
    assert len(shown) == len(set(shown)) >= min(count, 2)
    assert len(ranked(predicted)) == count


def test_without_scores_scenes_are_spread_over_the_split():
    predicted, _, _ = scenes(count=10)
    assert choose(predicted) == {"typical": pytest.approx(np.array([0, 3, 6, 9]))}


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    predicted, split, _ = scenes()
    score(predicted, split)
    save_predictions(tmp_path, {"val": predicted}, "abc")
    again = load_predictions(tmp_path, "abc", ScenePredictions)["val"]
    assert len(again) == 24
    for name, value in vars(predicted).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert load_predictions(tmp_path, "other", ScenePredictions) == {}
    (tmp_path / "predictions.npz").write_bytes(b"damaged")
    with pytest.raises(RunError, match="damaged"):
        load_predictions(tmp_path, "abc", ScenePredictions)


def test_figures_carry_their_numbers():
    predicted, split, _ = scenes()
    _, details = score(predicted, split)
    shown = scene_figures.by_size(details["by_size"])
    top, bottom = shown.axes
    assert top.lines[0].get_ydata().tolist() == [row["overlap"] for row in details["by_size"]]
    assert [bar.get_height() for bar in bottom.patches] == [row["objects"] for row in details["by_size"]]
    sizes = ({"low": 0, "high": 0.01}, {"low": 0.01, "high": 0.02}, {"low": 0.08, "high": 1})
    assert [scene_figures.size_label(row) for row in sizes] == ["under 1 %", "1 to 2 %", "over 8 %"]
    bars = scene_figures.histogram(details["histogram"]).axes[0].patches
    assert [bar.get_height() for bar in bars] == details["histogram"]["counts"]
    objects = scene_figures.by_objects(details["by_objects"]).axes[0].lines[0].get_ydata().tolist()
    assert objects == [row[FOREGROUND] for row in details["by_objects"].values()]
