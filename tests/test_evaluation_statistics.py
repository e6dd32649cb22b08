import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from evaluation.statistics import (
    bootstrap_macro_f1,
    evenly,
    fisher,
    holm,
    macro_f1_of_counts,
    mcnemar,
    rank_test,
    signed_rank,
)


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
    half = 1.959964 * np.sqrt(10 - 36 / 50) / 50  # Wald's, of a difference of paired shares
    assert (test.low, test.high) == pytest.approx((0.12 - half, 0.12 + half), abs=1e-6)
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


def test_signed_ranks_of_five_gains_are_the_two_ends_of_all_signs():
    assert signed_rank(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 2**5)
    assert signed_rank(np.zeros(9)) == 1.0


def test_fishers_table_of_tea():
    """Three of four cups told right either way (Fisher 1935): (16 + 1) / 70 on each side."""
    assert fisher((3, 1), (4, 4)) == pytest.approx(34 / 70)


def test_evenly_keeps_both_ends_and_repeats_nothing():
    chosen = evenly(np.arange(100, 200), 7)
    assert chosen[0] == 100 and chosen[-1] == 199 and set(np.diff(chosen)) <= {16, 17}
    assert evenly(np.arange(3), 7).tolist() == [0, 1, 2]
