import json
import shutil

import numpy as np
import pytest
from trained_text2math import base_folder, evaluated_run

from evaluation import comparison
from evaluation.runs import Run, load_run
from evaluation.statistics import mcnemar


@pytest.fixture
def runs(tmp_path_factory, tmp_path):
    """Two runs on the same problems: the second got the first ten wrong that the first got right."""
    folders = [
        shutil.copytree(evaluated_run(base_folder(tmp_path_factory)), tmp_path / name) for name in ("1_a", "2_b")
    ]
    entries = json.loads((folders[1] / "generated.json").read_text())
    found, gold = entries["val, beam 10"]["programs"], entries["val, gold"]["programs"]
    right = [i for i, (a, b) in enumerate(zip(found, gold, strict=True)) if a == b.strip("|")]
    for i in right[:10]:
        found[i] = "negate(n0)"
    (folders[1] / "generated.json").write_text(json.dumps(entries))
    made = [load_run(folder) for folder in folders]
    made[1].metrics["metrics"]["val"]["exact_match"] -= 10 / 60
    return made


def text(runs: list[Run]) -> str:
    return " ".join(comparison.observe_comparison(runs, comparison.paired_tests(runs))).replace("\u00a0", " ")


def test_the_table_has_the_lookup_below_the_runs(runs, tmp_path):
    table = comparison.results_table(runs, tmp_path)
    assert [row[0].value for row in table.cells()] == ["a", "b", "look-up, no learning"]
    column = table.columns.index("Val exact match")
    numbers = runs[0].metrics["metrics"]["val"]
    assert table.rows[0][column].best and not table.rows[1][column].best
    assert table.rows[2][column].value == f"{100 * numbers['lookup_exact_match']:.1f}\u00a0%"
    novel = table.columns.index("Val novel, exact")
    assert table.rows[2][novel].value == f"{100 * numbers['lookup_novel_exact_match']:.1f}\u00a0%"
    assert table.rows[2][table.columns.index("Train exact match")].value == "\u2013"


def test_pairs_are_tested_on_exact_match_of_the_same_problems(runs):
    tests = comparison.paired_tests(runs)
    assert tests[0, 1].only_first == 10 and tests[0, 1].only_second == 0
    wrong = np.arange(60) < 10
    assert tests[0, 1].p_value == mcnemar(~np.zeros(60, bool), ~wrong).p_value
    assert "a has the highest validation exact match" in text(runs)
    assert "On the same problems a is better than chance allows over b" in text(runs)


def test_other_problems_or_other_beams_are_not_paired(runs):
    runs[1].metrics["evaluation"]["main_beams"] = 7
    assert comparison.paired_tests(runs) == {}


def test_numbers_of_beam_search_and_greedy_ones_are_not_ranked_together(runs, tmp_path):
    def bold() -> bool:
        table = comparison.results_table(runs, tmp_path)
        return any(row[table.columns.index("Val exact match")].best for row in table.cells())

    assert bold()
    del runs[1].evaluation["splits"]["val"]  # its numbers are then those of training
    assert not bold()


def test_the_lookup_is_named_with_who_passes_it(runs):
    for run, value in zip(runs, (0.99, 0.5), strict=True):
        run.metrics["metrics"]["val"] |= {"exact_match": value, "lookup_exact_match": 0.75}
    said = text(runs)
    assert "(75.0 % on validation): above it a (24.0 points); at it or below b (25.0 points)" in said
    assert "novel problems of validation" in said


def test_teacher_forcing_is_spoken_of_where_it_alone_differs(runs):
    for run, ratio in zip(runs, (0.9, 0.3), strict=True):
        run.recipe["training"]["teacher_forcing"] = ratio
    said = text(runs)
    assert (
        "by the ratio of teacher forcing" in said and "between 0.9 and 0.3 exact match differs by 16.7 points" in said
    )
    runs[0].recipe["training"]["learning_rate"] = 1.0
    assert "by the ratio of teacher forcing" not in text(runs)


def test_dev_ranks_the_runs_where_all_have_it(runs):
    for run, value in zip(runs, (0.4, 0.6), strict=True):
        run.metrics["metrics"]["dev"] = {**run.metrics["metrics"]["val"], "exact_match": value}
    assert "b has the highest dev exact match" in text(runs)
    value = 100 * runs[0].metrics["metrics"]["val"]["exact_match"]
    assert f"Chosen by validation, the best is a: exact match {value:.1f} % there and 40.0 % on dev" in text(runs)


def test_runs_on_other_data_are_not_ranked(runs):
    runs[1].recipe["data"]["path"] = "/elsewhere/other"
    assert "different data" in text(runs)
