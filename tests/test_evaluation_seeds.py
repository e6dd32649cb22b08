import numpy as np
import pytest
from scipy import stats
from test_evaluation_comparison import make
from test_evaluation_observations import predictions

from evaluation import comparison
from evaluation.seeds import Spread, group_name, seed_groups


def runs_with_seeds(tmp_path, seeds, norms):
    runs = []
    for number, (seed, norm) in enumerate(zip(seeds, norms, strict=True)):
        run = make(tmp_path, f"{norm}_{seed}_{number}", predictions(0.7 + 0.05 * number, 0.9), norm=norm)
        run.recipe["training"]["seed"] = seed
        runs.append(run)
    return runs


def test_a_spread_is_the_t_interval_of_the_mean():
    values = [0.81, 0.84, 0.79]
    spread = Spread.of(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (spread.mean, spread.low, spread.high) == pytest.approx((np.mean(values), low, high))
    assert spread.deviation == pytest.approx(np.std(values, ddof=1))
    with pytest.raises(ValueError, match="two values"):
        Spread.of([0.5])


def test_runs_that_differ_in_their_seeds_alone_are_a_group(tmp_path):
    runs = runs_with_seeds(tmp_path, [0, 0, 1, 2], ["bn", "gn", "bn", "bn"])
    assert seed_groups(runs) == [[0, 2, 3]]


def test_the_same_run_done_twice_is_not_two_seeds(tmp_path):
    assert seed_groups(runs_with_seeds(tmp_path, [0, 0], ["bn", "bn"])) == []
    runs = runs_with_seeds(tmp_path, [42, 1, 42], ["bn", "bn", "bn"])
    del runs[2].recipe["training"]["seed"]  # which is 42 then
    assert seed_groups(runs) == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "bounds"), [([0.9, 0.99], (0.3731, 1.0)), ([0.01, 0.2], (0.0, 1.0)), ([-0.1, 0.0], (-0.6853, 0.5853))]
)
def test_the_interval_of_a_share_ends_where_shares_do(values, bounds):
    assert Spread.of(values).of_share == pytest.approx(bounds, abs=1e-3)


def test_a_group_has_a_row_of_means_below_the_runs(tmp_path):
    runs = runs_with_seeds(tmp_path, [0, 1], ["bn", "bn"])
    table = comparison.results_table(runs, tmp_path)
    column = table.columns.index("Val accuracy")
    values = [comparison.number_of(run, "val", "accuracy") for run in runs]
    spread = Spread.of(values)
    last = table.cells()[-1]
    assert len(table.rows) == 3 and last[0].value.endswith("2 seeds")
    assert last[column].value == f"{100 * spread.mean:.1f}\u00a0%"
    assert last[column].note.startswith(f"{100 * spread.low:.1f} to ") and not last[column].best
    said = " ".join(comparison.observe_comparison(runs, {})).replace("\u00a0", " ")
    assert f"2 seeds: validation accuracy is {100 * spread.mean:.1f} % on average" in said


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["seed0", "seed1", "seed2"], "3 seeds"),
        (["bn_seed0", "bn_seed1"], "bn, 2 seeds"),
        (["seed_0", "plain"], "seed_0, plain, 2 seeds"),
        (["gn0", "gn1"], "gn, 2 seeds"),
    ],
)
def test_names_without_their_numbers(labels, name):
    assert group_name(labels) == name
