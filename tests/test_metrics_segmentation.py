"""The segmentation metrics against scikit-learn, slow definitions and values by hand; the published MSE."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from two_processes import run_on_two

import metrics
from metrics.label_maps import contingency_tables

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("adjusted_rand_index", "mean_iou", "mean_best_overlap")


def compute(name, predictions, references, **options):
    options = {"resamples": 20, "return_samples": True, **options}
    return metrics.load(name).compute(predictions=predictions, references=references, **options)


def random_maps(seed, images=4, size=6, labels=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, (images, size, size))
    noisy = np.where(rng.random(truth.shape) < 0.7, (truth + 2) % labels, rng.integers(0, labels + 1, truth.shape))
    return noisy, truth


@pytest.fixture(scope="module")
def scenes(shared):
    return np.load(shared / "data/clevrtex_real/scenes25.npz")


# --- Adjusted Rand index ----------------------------------------------------------------------------------------------


def test_ari_of_the_real_scenes_is_scikit_learns(scenes):
    truth, predicted = scenes["mask"], scenes["predicted_mask"]
    got = compute("adjusted_rand_index", predicted, truth)
    everything = [adjusted_rand_score(t.ravel(), p.ravel()) for t, p in zip(truth, predicted, strict=True)]
    foreground = [adjusted_rand_score(t[t > 0], p[t > 0]) for t, p in zip(truth, predicted, strict=True)]
    np.testing.assert_allclose(got["samples"]["adjusted_rand_index"], everything, atol=1e-9, rtol=0)
    np.testing.assert_allclose(got["samples"]["foreground_adjusted_rand_index"], foreground, atol=1e-9, rtol=0)
    assert got["adjusted_rand_index"] == pytest.approx(np.mean(everything), abs=1e-9)
    assert got["foreground_adjusted_rand_index"] == pytest.approx(np.mean(foreground), abs=1e-9)
    assert got["num_images"] == got["num_foreground_images"] == 25
    pooled = adjusted_rand_score(truth.ravel(), predicted.ravel())
    assert abs(pooled - np.mean(everything)) > 0.01  # one index over the whole batch is another number


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_ari_is_scikit_learns(seed, size, labels, images):
    predicted, truth = random_maps(seed, images, size, labels)
    got = compute("adjusted_rand_index", predicted, truth)["samples"]
    for i in range(images):
        t, p = truth[i].ravel(), predicted[i].ravel()
        assert got["adjusted_rand_index"][i] == pytest.approx(adjusted_rand_score(t, p), abs=1e-12)
        value = got["foreground_adjusted_rand_index"][i]
        if (t > 0).any():
            assert value == pytest.approx(adjusted_rand_score(t[t > 0], p[t > 0]), abs=1e-12)
        else:
            assert value is None


def test_ari_edge_cases():
    one, halves, own = np.zeros((2, 4), int), np.array([[1, 1, 1, 1], [2, 2, 2, 2]]), np.arange(8).reshape(2, 4)
    cases = ((one, one, 1), (one, halves, 0), (halves, one, 0), (own, own[:, ::-1], 1), (halves, 7 - halves, 1))
    for predicted, truth, value in cases:
        assert compute("adjusted_rand_index", predicted[None], truth[None])["adjusted_rand_index"] == value
    # An image without foreground does not enter the foreground's mean; where none has any there is no mean.
    mixed = compute("adjusted_rand_index", [halves, halves], [one, halves])
    assert mixed["foreground_adjusted_rand_index"] == 1 and mixed["num_foreground_images"] == 1
    assert mixed["samples"]["foreground_adjusted_rand_index"] == [None, 1]
    nothing = compute("adjusted_rand_index", [halves], [one])
    assert nothing["foreground_adjusted_rand_index"] is None and nothing["num_foreground_images"] == 0
    assert nothing["foreground_adjusted_rand_index_interval"] is None


def test_ari_of_a_large_image_does_not_overflow():
    truth = np.repeat(np.arange(2, dtype=np.uint8), 800_000)[None, :]
    predicted = np.tile(np.arange(5, dtype=np.uint8), 320_000)[None, :]
    got = compute("adjusted_rand_index", predicted, truth)["adjusted_rand_index"]
    assert got == pytest.approx(adjusted_rand_score(truth[0], predicted[0]), abs=1e-9)


# --- Overlaps ---------------------------------------------------------------------------------------------------------


def slow_overlaps(predicted, truth, labels):
    """IoU of each true segment of `labels` with each predicted one, as lists of sets of pixels."""
    true = [set(np.flatnonzero(truth.ravel() == label)) for label in labels]
    segments = [set(np.flatnonzero(predicted.ravel() == label)) for label in np.unique(predicted)]
    return [[len(t & s) / len(t | s) for s in segments] for t in true]


def slow_mean_iou(predicted, truth, labels):
    """The best of all one-to-one matchings, tried one by one."""
    overlaps = slow_overlaps(predicted, truth, labels)
    partners = [*range(len(overlaps[0])), *[None] * len(overlaps)]
    matchings = set(itertools.permutations(partners, len(overlaps)))
    return max(sum(row[j] for row, j in zip(overlaps, m, strict=True) if j is not None) for m in matchings) / len(
        labels
    )


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_equal_their_definitions(seed):
    predicted, truth = random_maps(seed, images=2, size=4, labels=3)
    truth[0] = np.where(truth[0] == 1, 9, truth[0])  # a gap in the labels is no segment
    iou = compute("mean_iou", predicted, truth)
    best = compute("mean_best_overlap", predicted, truth)
    for i in range(2):
        labels = np.unique(truth[i])
        objects = labels[labels > 0]
        want = slow_mean_iou(predicted[i], truth[i], labels)
        assert iou["samples"]["mean_iou"][i] == pytest.approx(want)
        want = slow_mean_iou(predicted[i], truth[i], objects)
        assert iou["samples"]["foreground_mean_iou"][i] == pytest.approx(want)
        want = np.mean([max(row) for row in slow_overlaps(predicted[i], truth[i], objects)])
        assert best["samples"]["mean_best_overlap"][i] == pytest.approx(want)
    assert iou["mean_iou"] == pytest.approx(np.mean(iou["samples"]["mean_iou"]))


def test_overlaps_by_hand():
    truth = np.array([[[0, 0, 1, 1], [0, 0, 2, 2]]])
    merged = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]])  # one segment for both objects
    assert compute("mean_iou", merged, truth)["mean_iou"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert compute("mean_iou", merged, truth)["foreground_mean_iou"] == pytest.approx((1 / 2 + 0) / 2)
    assert compute("mean_best_overlap", merged, truth)["mean_best_overlap"] == pytest.approx(1 / 2)  # used twice
    for name in ("mean_iou", "mean_best_overlap"):
        assert compute(name, 5 - truth, truth)[name] == 1
    empty = np.zeros_like(truth)
    assert compute("mean_best_overlap", merged, empty)["mean_best_overlap"] is None
    assert compute("mean_iou", merged, empty)["foreground_mean_iou"] is None
    assert compute("mean_iou", merged, empty)["mean_iou"] == pytest.approx(1 / 2)


def test_overlaps_of_the_real_scenes(scenes):
    truth, predicted = scenes["mask"], scenes["predicted_mask"]
    ari = compute("adjusted_rand_index", predicted, truth)
    for name in ("mean_iou", "mean_best_overlap"):
        perfect, real, constant = (compute(name, p, truth)[name] for p in (truth, predicted, 0 * truth))
        assert perfect == 1 and 0.5 < real < 1 and constant < 0.35
    assert compute("mean_best_overlap", predicted, truth)["mean_best_overlap"] < 1 > ari["adjusted_rand_index"]


# --- All three --------------------------------------------------------------------------------------------------------


def test_tables_count_pixels():
    predicted, truth = random_maps(0, images=3, size=5, labels=4)
    tables = contingency_tables(truth, predicted)
    for i, t, p in itertools.product(range(3), range(4), range(5)):
        assert tables[i, t, p] == ((truth[i] == t) & (predicted[i] == p)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_labels_far_apart_batches_lists_and_sizes_change_nothing(name):
    predicted, truth = random_maps(3, images=5)
    whole = compute(name, predicted, truth)
    assert compute(name, (60 * predicted).astype(np.uint8), (61 * truth).astype(np.uint8)) == whole
    assert compute(name, [p.tolist() for p in predicted], list(truth)) == whole
    module = metrics.load(name)
    module.add_batch(predictions=predicted[:2], references=truth[:2])
    module.add(prediction=predicted[2], reference=truth[2])
    module.add_batch(predictions=predicted[3:], references=truth[3:])
    assert json.loads(json.dumps(module.compute(resamples=20, return_samples=True))) == whole
    big = [np.kron(m, np.ones((2, 2), int)) for m in (predicted[4], truth[4])]  # another size, same value but for ARI
    mixed = compute(name, [*predicted[:4], big[0]], [*truth[:4], big[1]])
    for samples, values in zip(mixed["samples"].values(), whole["samples"].values(), strict=True):
        assert samples[:4] == pytest.approx(values[:4])
        if name != "adjusted_rand_index":
            assert samples[4] == pytest.approx(values[4])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_use_is_named(name):
    maps = np.zeros((2, 4, 4), int)
    cases = (
        (maps, maps[:1], r"Mismatch in the number of predictions \(2\) and references \(1\)"),
        (maps, np.zeros((2, 4, 5), int), r"different shapes: predictions \[2, 4, 4\] and references \[2, 4, 5\]"),
        (maps.astype(float), maps, "predictions are float64: .*argmax"),
        (np.stack([maps, maps], axis=1), maps, "they must be label maps .*argmax"),
        (maps, maps - 1, "references hold labels from -1 to -1"),
        (maps + 256, maps, "predictions hold labels from 256 to 256"),
        (np.zeros(3, int), maps, r"predictions are int64 of shape \[3\]"),
        (None, maps, "predictions are missing"),
        ([], [], "of no samples is not defined"),
    )
    for predicted, truth, message in cases:
        with pytest.raises(ValueError, match=message):
            compute(name, predicted, truth)
    with pytest.raises(ValueError, match="of no samples is not defined"):
        metrics.load(name).compute()


IMPORTS = """
import sys
sys.modules["transformers"] = None  # evaluate imports all of it where it is installed
import evaluate
del sys.modules["transformers"]
import json, metrics
"""
ON_TWO_PROCESSES = """
maps = ([[[0, 0], [1, 2]]], [[[0, 0], [1, 2]]]) if rank == 0 else ([[[0, 1], [0, 1]]] * 2, [[[0, 0], [1, 1]]] * 2)
answers = []
for name in sys.argv[1:]:
    module = metrics.load(name, num_process=2, process_id=rank, cache_dir="cache", experiment_id="pair")
    module.add_batch(predictions=maps[0], references=maps[1])
    result = module.compute(return_samples=True)
    answers.append(result and result["samples"][name])
json.dump(answers, open(f"{rank}.json", "w"))
"""


def test_two_processes_in_another_folder(tmp_path):
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run_on_two(IMPORTS, ON_TWO_PROCESSES, *NAMES, cwd=tmp_path, env=environment)
    (ari, iou, best), nothing = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert nothing == [None] * 3
    assert ari == [1, -0.5, -0.5]
    assert iou == pytest.approx([1, 1 / 3, 1 / 3]) and best == pytest.approx([1, 1 / 3, 1 / 3])


# --- MSE --------------------------------------------------------------------------------------------------------------


def test_published_mse():
    rng = np.random.default_rng(0)
    truth = rng.random((3, 3, 8, 8))
    predicted = np.clip(truth + 0.1 * rng.standard_normal(truth.shape), -0.2, 1.2)
    got = compute("reconstruction_mse", predicted, truth)
    per_image = [((np.clip(p, 0, 1) - t) ** 2).sum() for p, t in zip(predicted, truth, strict=True)]
    assert got["samples"]["reconstruction_mse"] == pytest.approx(per_image)
    assert got["reconstruction_mse"] == pytest.approx(np.mean(per_image))
    assert got["mean_squared_error"] == pytest.approx(np.mean(per_image) / (3 * 8 * 8))
    as_bytes = [np.round(255 * images).astype(np.uint8) for images in (np.clip(predicted, 0, 1), truth)]
    assert compute("reconstruction_mse", *as_bytes)["reconstruction_mse"] == pytest.approx(np.mean(per_image), rel=0.05)
    module = metrics.load("reconstruction_mse")
    module.add_batch(predictions=predicted[:1], references=truth[:1])
    module.add(prediction=predicted[1], reference=truth[1])
    again = module.compute(predictions=predicted[2:], references=truth[2:], resamples=20, return_samples=True)
    assert json.loads(json.dumps(again)) == got


def test_wrong_use_of_mse_is_named():
    images = np.zeros((2, 3, 4, 4))
    for predicted, truth, message in (
        (images, images - 1, r"references are in \[-1, -1\]: .*\(x \+ 1\) / 2"),
        (images, images[:1], "Mismatch in the number or size"),
        (images, images.astype(int), "references are int64"),
        (images * np.nan, images, "predictions hold values that are not finite"),
        (images[0], images[0], "4 axes"),
        (None, images, "predictions are missing"),
        (images[:0], images[:0], "of no samples is not defined"),
    ):
        with pytest.raises(ValueError, match=message):
            compute("reconstruction_mse", predicted, truth)
