import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from evaluation.statistics import bootstrap_macro_f1, holm, macro_f1_of_counts, mcnemar, rank_test, wilson_interval


def test_wilson_interval_equals_its_formula():
    n, k, z = 122, 104, 1.959963984540054
    p = k / n
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    assert wilson_interval(k, n) == pytest.approx(expected, abs=1e-9)


def test_wilson_interval_stays_in_range_at_the_ends():
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="at least one sample"):
        wilson_interval(0, 0)


def test_macro_f1_of_counts_is_scikit_learns_also_where_a_class_is_missing():
    rng = np.random.default_rng(0)
    for classes in (2, 5):
        labels, predicted = (
            rng.integers(0, classes - 1, 40),
            rng.integers(0, classes, 40),
        )  # the last class has no sample
        counts = confusion_matrix(labels, predicted, labels=range(classes + 1))  # and one more occurs nowhere
        assert macro_f1_of_counts(counts) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_bootstrap_over_cells_agrees_with_resampling_the_samples():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 150)
    predicted = np.where(rng.random(150) < 0.7, labels, rng.integers(0, 3, 150))
    drawn = []
    for _ in range(800):
        rows = rng.integers(0, 150, 150)
        drawn.append(f1_score(labels[rows], predicted[rows], average="macro"))
    expected = np.percentile(drawn, [2.5, 97.5])
    assert bootstrap_macro_f1(confusion_matrix(labels, predicted)) == pytest.approx(expected, abs=0.012)


def test_bootstrap_is_deterministic_and_refuses_an_empty_matrix():
    counts = np.array([[5, 2], [1, 8]])
    assert bootstrap_macro_f1(counts) == bootstrap_macro_f1(counts)
    with pytest.raises(ValueError, match="empty"):
        bootstrap_macro_f1(np.zeros((2, 2), int))


def test_mcnemar_counts_only_disagreements():
    first = np.array([True] * 8 + [False] * 2 + [True] * 40)
    second = np.array([False] * 8 + [True] * 2 + [True] * 40)
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (8, 2)
    assert test.difference == pytest.approx(6 / 50)
    assert test.p_value == pytest.approx(
        2 * (1 + 10 + 45) / 1024
    )  # binomial(10, 1/2), two-sided: 0, 1 or 2 and mirrored
    assert test.low < test.difference < test.high
    assert mcnemar(first, first).p_value == 1
    with pytest.raises(ValueError, match="same, non-empty"):
        mcnemar(first, second[:3])


def test_holm_multiplies_by_the_number_left_and_never_decreases():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_rank_test_needs_three_values_of_each():
    assert rank_test(np.arange(2.0), np.arange(9.0)) is None
    assert rank_test(np.arange(9.0), np.arange(9.0) + 100) < 0.001
