import numpy as np
import pytest
from scipy.stats import wilcoxon

from evaluation.paired_scores import Scores, against_best, no_outcomes, ranking_split, scenes_key
from evaluation.runs import Run


@pytest.fixture
def values():
    """Scores of four runs on 30 samples: the second is the best, the first close, the others behind by 1."""
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 30))
    return noise + np.linspace(0, 3, 30) + np.array([[1.0], [1.01], [0.0], [0.0]])


def paired(values, **changed) -> tuple[str, list]:
    scores = [Scores(np.arange(30), row) for row in values]
    for name, other in changed.items():
        scores["abcd".index(name)] = other
    return against_best("abcd", scores, [float(row.mean()) for row in values])


def test_the_best_is_tested_against_every_other_run(values):
    best, found = paired(values)
    assert (best, [d.label for d in found]) == ("b", ["a", "c", "d"])
    differences = [values[1] - values[i] for i in (0, 2, 3)]
    for one, difference in zip(found, differences, strict=True):
        assert one.mean == pytest.approx(difference.mean())
        spread = 1.96 * np.std(difference) / 30**0.5  # the bootstrap of a mean is close to the normal interval
        assert [one.low, one.high] == pytest.approx([one.mean - spread, one.mean + spread], abs=0.2 * spread)
    others = [values[0] - values[2], values[0] - values[3], values[2] - values[3]]  # the best was found among all pairs
    raw = [wilcoxon(difference).pvalue for difference in differences + others]
    order = np.argsort(raw)
    expected = np.empty(6)
    expected[order] = np.maximum.accumulate([min(1, raw[i] * (6 - rank)) for rank, i in enumerate(order)])
    assert [d.p_value for d in found] == pytest.approx(expected[:3].tolist())
    assert found[0].p_value > 0.05 > found[1].p_value


def test_samples_without_a_value_in_one_of_the_two_are_left_out(values):
    values[0, :5], values[1, 20:] = np.nan, np.nan
    scores = [Scores(np.arange(30), row) for row in values[:2]]
    _, (found,) = against_best("ab", scores, [1.0, 2.0])
    assert found.mean == pytest.approx((values[1] - values[0])[5:20].mean())
    values[0] = np.nan
    assert against_best("ab", scores, [1.0, 2.0]) == ("b", [])


def test_other_samples_and_runs_without_scores_are_left_out(values):
    best, found = paired(values, c=Scores(np.arange(30) + 1, values[2]), d=None)
    assert (best, [d.label for d in found]) == ("b", ["a"])
    assert paired(values, a=None, c=None, d=None) == ("", [])


def test_nothing_is_said_across_different_data(values):
    scores = [Scores(np.arange(30), row, name) for row, name in zip(values, ("x", "x", "x", "y"), strict=True)]
    assert against_best("abcd", scores, [1.0, 2.0, 3.0, 4.0]) == ("", [])
    assert against_best("abcd", scores, [1.0, 2.0, 3.0, None])[0] == "c"


def run(path=None, **splits) -> Run:
    data = {"difficulty": "plain", "seed": 3} | ({"path": path} if path else {})
    return Run("x", {"data": data}, {}, {"metrics": splits})


def test_the_first_split_that_all_runs_have_ranks():
    both, one = {"psnr_interval": [0, 1]}, {"psnr": 3}
    assert ranking_split([run(val=both, test=both)], "psnr", ("val", "test")) == "val"
    assert ranking_split([run(val=both, test=both), run(val=one, test=both)], "psnr", ("val", "test")) == "test"
    assert ranking_split([run(val=one), run(test=both)], "psnr", ("train", "test")) == "val"


def test_what_was_measured_on_for_people():
    drawn = run(val={"samples": 1200})
    assert scenes_key(drawn, "val", 64, "scenes", ["3 objects"]) == (
        "generated scenes, plain (64 px, 3 objects, seed 3, 1,200 validation scenes)"
    )
    assert scenes_key(run("/data/CLEVR6.tar"), "val", 64, "scenes", ["3 objects"]) == "CLEVR6 (64 px)"
    assert no_outcomes(drawn, "val") is None
