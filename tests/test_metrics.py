"""The metric modules against scikit-learn, values by hand and a slow definition; elsewhere and on two processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from two_processes import run_on_two

import metrics

ROOT = Path(__file__).resolve().parents[1]
CLASSIFICATION = ("accuracy", "calibration_error", "confusion_matrix", "f1", "per_class")
PREDICTED, TRUE = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]


def compute(name, predictions, references, **options):
    return metrics.load(name).compute(predictions=predictions, references=references, **options)


def test_the_modules_there_are():
    assert set(CLASSIFICATION) <= set(metrics.NAMES)


def test_values_by_hand():
    assert compute("accuracy", PREDICTED, TRUE) == {"accuracy": pytest.approx(4 / 6)}
    assert compute("f1", PREDICTED, TRUE, average="micro") == {"f1": pytest.approx(4 / 6)}
    assert compute("f1", PREDICTED, TRUE, average="macro") == {"f1": pytest.approx((1 / 2 + 2 / 3 + 4 / 5) / 3)}
    assert compute("confusion_matrix", PREDICTED, TRUE) == {"confusion_matrix": [[1, 0, 1], [1, 1, 0], [0, 0, 2]]}
    table = compute("per_class", PREDICTED, TRUE)
    assert table["precision"] == pytest.approx([1 / 2, 1, 2 / 3])
    assert table["recall"] == pytest.approx([1 / 2, 1 / 2, 1])
    assert table["f1"] == pytest.approx([1 / 2, 2 / 3, 4 / 5])
    assert table["support"] == [2, 2, 2]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_values_are_scikit_learns(pairs):
    predictions, references = zip(*pairs, strict=True)
    accuracy = compute("accuracy", predictions, references)["accuracy"]
    assert accuracy == pytest.approx(sklearn.metrics.accuracy_score(references, predictions))
    assert compute("f1", predictions, references, average="micro")["f1"] == pytest.approx(accuracy)
    for average in ("macro", "weighted"):
        want = sklearn.metrics.f1_score(references, predictions, average=average, zero_division=0)
        assert compute("f1", predictions, references, average=average)["f1"] == pytest.approx(want)
    matrix = np.array(compute("confusion_matrix", predictions, references, num_labels=6)["confusion_matrix"])
    assert matrix.shape == (6, 6)
    assert matrix.sum() == len(pairs)
    table = compute("per_class", predictions, references, num_labels=6)
    np.testing.assert_allclose(table["recall"], matrix.diagonal() / np.maximum(matrix.sum(axis=1), 1))
    np.testing.assert_allclose(table["precision"], matrix.diagonal() / np.maximum(matrix.sum(axis=0), 1))
    assert table["support"] == matrix.sum(axis=1).tolist()


def test_absent_classes():
    assert compute("per_class", [0, 1], [0, 1], num_labels=3)["f1"] == [1.0, 1.0, 0.0]
    assert compute("f1", [0, 1], [0, 1], num_labels=3)["f1"] == pytest.approx(2 / 3)
    assert compute("f1", [0, 1], [0, 1])["f1"] == 1.0


def test_normalised_confusion_matrix():
    got = compute("confusion_matrix", PREDICTED, TRUE, normalize="true")["confusion_matrix"]
    np.testing.assert_allclose(got, [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0, 1]])


def slow_calibration_error(probabilities, labels, num_bins):
    """Guo et al. 2017, equations 2 and 3, bin by bin and sample by sample."""
    error = 0.0
    for m in range(1, num_bins + 1):
        inside = [
            (max(row), float(int(np.argmax(row)) == label))
            for row, label in zip(probabilities, labels, strict=True)
            if (m - 1) / num_bins < max(row) <= m / num_bins
        ]
        if inside:
            confidence, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            error += len(inside) / len(labels) * abs(right - confidence)
    return error


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.integers(1, 20), st.floats(0.05, 5))
def test_calibration_error_equals_the_definition(seed, samples, classes, num_bins, spread):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, spread), samples)
    labels = rng.integers(0, classes, samples)
    got = compute("calibration_error", probabilities, labels, num_bins=num_bins)["calibration_error"]
    assert got == pytest.approx(slow_calibration_error(probabilities, labels, num_bins), abs=1e-9)


def test_calibration_error_by_hand():
    # Two samples at 0.8 of which one is right: |0.5 - 0.8|; certain and right: 0.
    rows = [[0.8, 0.2], [0.2, 0.8], [1.0, 0.0], [1.0, 0.0]]
    got = compute("calibration_error", rows, [0, 0, 0, 0], return_bins=True)
    assert got["calibration_error"] == pytest.approx(0.15)
    assert got["bin_count"][11] == got["bin_count"][14] == 2
    assert got["bin_accuracy"][11] == 0.5
    assert got["bin_confidence"][11] == pytest.approx(0.8)
    assert sum(got["bin_count"]) == 4


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    got = compute("calibration_error", [[0.5, 0.5]], [0], num_bins=2, return_bins=True)
    assert got["bin_count"] == [1, 0]


@pytest.mark.parametrize("rows", [[[2.0, -1.0]], [[0.5, 0.2]], [[3.1, 0.4]], [[float("nan"), 1.0]]])
def test_calibration_error_of_logits_is_refused(rows):
    with pytest.raises(ValueError, match="apply softmax to logits"):
        compute("calibration_error", rows, [0])


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match=r"no metric 'acuracy' \(did you mean accuracy\?\): there are accuracy, "):
        metrics.load("acuracy")
    with pytest.raises(ValueError, match="average must be macro, micro or weighted, not 'median'"):
        compute("f1", [0], [0], average="median")
    for name in ("confusion_matrix", "per_class"):
        with pytest.raises(ValueError, match="class 4 occurs, but num_labels is 3"):
            compute(name, [4], [0], num_labels=3)
    with pytest.raises(ValueError, match="num_bins must be at least 1"):
        compute("calibration_error", [[1.0, 0.0]], [0], num_bins=0)
    with pytest.raises(ValueError, match="Mismatch in the number of"):
        compute("accuracy", [0, 1], [0])


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_no_samples_are_an_error(name):
    with pytest.raises(ValueError, match="of no samples is not defined"):
        compute(name, [], [])


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_results_are_json_and_batches_add_up(name):
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(4), 37), rng.integers(0, 4, 37)
    predictions = probabilities if name == "calibration_error" else probabilities.argmax(axis=1)
    whole = compute(name, predictions, labels)
    module = metrics.load(name)
    for start in range(0, 37, 10):
        part = slice(start, start + 10)
        module.add_batch(predictions=predictions[part], references=labels[part])
    assert json.loads(json.dumps(module.compute())) == whole
    assert module.description
    assert module.citation
    assert "Returns" in module.inputs_description


# evaluate imports all of transformers where it is installed, which these scripts need not wait for.
WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None
import evaluate
del sys.modules["transformers"]
import json, metrics
"""
ELSEWHERE = """

rows, labels = [[0.8, 0.2], [0.2, 0.8], [0.6, 0.4]], [0, 0, 1]
found = {}
for name in ("accuracy", "calibration_error", "confusion_matrix", "f1", "per_class"):
    predictions = rows if name == "calibration_error" else [0, 1, 0]
    found.update(metrics.load(name).compute(predictions=predictions, references=labels))
print(json.dumps(found))
"""


def test_modules_load_offline_from_another_folder_with_names_that_clash(tmp_path):
    """`evaluate` would take a folder `accuracy` of the working directory, or ask the Hub."""
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy/accuracy.py").write_text("raise SystemExit('the wrong module')")
    environment = {
        "PATH": "", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT),
        "HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS + ELSEWHERE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["confusion_matrix"] == [[1, 1], [1, 0]]
    assert 0 < found["calibration_error"] < 1


TWO_PROCESSES = """
answers = []
mine = range(rank, 101, 2)  # 51 samples and 50
labels = [i % 3 for i in mine]
rows = {
    "confusion_matrix": [(i // 2) % 3 for i in mine],
    "calibration_error": [[0.6, 0.3, 0.1] if i % 2 else [0.1, 0.1, 0.8] for i in mine],
}
for name, predictions in rows.items():
    module = metrics.load(name, num_process=2, process_id=rank, cache_dir=sys.argv[1], experiment_id="pair")
    for start in range(0, len(mine), 16):
        module.add_batch(predictions=predictions[start : start + 16], references=labels[start : start + 16])
    answers.append(module.compute(**({"return_bins": True} if name == "calibration_error" else {})))
json.dump(answers, open(f"{sys.argv[1]}/{rank}.json", "w"))
"""


def test_two_processes_count_every_sample_once(tmp_path):
    run_on_two(WITHOUT_TRANSFORMERS, TWO_PROCESSES, tmp_path, cwd=ROOT)
    (matrix, calibration), nothing = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert nothing == [None, None]
    labels = [i % 3 for i in range(101)]
    want = sklearn.metrics.confusion_matrix(labels, [(i // 2) % 3 for i in range(101)])
    assert matrix["confusion_matrix"] == want.tolist()
    assert np.sum(matrix["confusion_matrix"]) == 101
    rows = [[0.6, 0.3, 0.1] if i % 2 else [0.1, 0.1, 0.8] for i in range(101)]
    assert sum(calibration["bin_count"]) == 101
    assert calibration["calibration_error"] == pytest.approx(slow_calibration_error(rows, labels, 15))
