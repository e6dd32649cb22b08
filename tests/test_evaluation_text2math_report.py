import copy
import json
import re
import shutil

import numpy as np
import pytest
from trained_text2math import base_folder, evaluated_run, history

from evaluation import text2math_figures, text2math_report
from evaluation.figures import to_svg
from evaluation.program_generation import Attention
from evaluation.runs import load_run
from evaluation.text2math_observations import close_split, observe_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return evaluated_run(base_folder(tmp_path_factory))


@pytest.fixture
def run(trained):
    return copy.deepcopy(load_run(trained))


def said(run) -> str:
    return " ".join(observe_run(run)).replace("\u00a0", " ")


def test_every_sentence_carries_a_number(run):
    sentences = observe_run(run)
    assert len(sentences) >= 14 and all(re.search(r"\d", sentence) for sentence in sentences)


def test_the_report_says_the_numbers_of_metrics_json(trained):
    html = (trained / "report.html").read_text().replace("\u00a0", " ")
    content = json.loads((trained / "metrics.json").read_text())
    for numbers in content["metrics"].values():
        for key in ("exact_match", "execution_accuracy", "token_match"):
            assert f"{100 * numbers[key]:.1f} %" in html
        assert f"{numbers['loss']:.3f}" in html
    for title in ("Beside the look-up", "Beam search", "Errors", "Attention", "Calibration", "Learning curves"):
        assert f">{title}</h2>" in html
    assert re.search(r"#0 = \w+\(n0, n1\)", html)
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)


def test_the_lookup_is_passed_or_not_by_the_paired_test(run):
    details = run.evaluation["splits"]["val"]["against_lookup"]["all"]
    details["exact_match"] |= {"difference": 0.062, "p_value": 0.0001}
    assert "6.2 points above it (p < 0.001)" in said(run)
    details["exact_match"] |= {"difference": -0.031, "p_value": 0.2}
    assert "3.1 points below it, not told apart from it (p = 0.200)" in said(run)


def test_learning_by_heart_is_said_only_beyond_chance(run):
    train, val = run.metrics["metrics"]["train"], run.metrics["metrics"]["val"]
    train["exact_match"], val["exact_match"] = 0.98, 0.50
    assert "learnt part of them by heart" in said(run)
    train["exact_match"] = 0.52
    assert "no more than chance allows" in said(run)


def test_length_and_operations_are_spoken_of_where_there_are_enough_problems(run):
    parts = run.evaluation["splits"]["val"]["parts"]
    numbers = {"exact_match": 0.9, "exact_match_interval": [0.8, 1.0], "samples": 50}
    parts["by_operations"] = {"1": numbers, "2": {**numbers, "exact_match": 0.2}, "3": {**numbers, "samples": 2}}
    parts["by_operation"] = {name: {**numbers, "exact_match": i / 10} for i, name in enumerate(("add", "log", "max"))}
    text = said(run)
    assert "falls by 70.0 points from programs of 1 operation (90.0 % of 50) to those of 2 operations" in text
    assert "Of the operations" not in text
    parts["by_operation"]["min"] = {**numbers, "exact_match": 1.0}
    assert "least often exact with add (0 % of 50" in said(run) and "most often with min (100 % of 50)" in said(run)


def test_errors_search_beams_and_constraint_are_counted(run):
    details = run.evaluation["splits"]["val"]
    details["errors"] = {
        "different": 40,
        "alternatives": 8,
        "reordered": 5,
        "kinds": {"number": {"count": 30, "alternatives": 8}, "operation": {"count": 10, "alternatives": 0}},
        "operations": [{"gold": "add", "predicted": "subtract", "count": 7, "share": 0.7}],
    }
    details["search"] = {"wrong": 40, "gold_more_probable": 2}
    details["best"] = {"count": 10, "looked_at": 30, "holding_answer": 12, "wrong": 32}
    details["constrained"]["different"] = 3
    text = said(run)
    assert "Of 40 predictions that are not the gold program" in text
    assert "another number of the problem in 75 %, another operation in 25 %" in text
    assert "subtract for add (7)" in text and "8 predictions give the answer" in text
    assert "In 2 of the 40 cases" in text and "5.0 % are errors of the search" in text
    assert "in 12 of 30 cases looked at (40 %)" in text
    assert "With 10 beams instead of 1" in text and "With 4 beams instead of 1" in text
    assert "3 of 60 predictions change" in text


def test_a_run_that_was_only_trained_speaks_of_its_history(run):
    run.metrics.pop("evaluation")
    run.history = history([0.1, 0.4, 0.3])
    assert close_split(run) is None
    assert "Validation exact match peaked at epoch 2 with 40.0 %" in said(run)
    assert text2math_report.number_figures(run) == {}


def test_a_carved_part_is_called_so(run):
    run.evaluation["carved"] = True
    assert "On the carved validation part (60 problems)" in said(run)
    assert "validation (carved from train)" in str(text2math_report.results_table(run).rows)


def test_number_figures_are_those_that_may_be_published(run):
    made = text2math_report.number_figures(run)
    assert {f"{name}.png" for name in made} <= set(text2math_report.PUBLISHED_FIGURES)
    assert {"exact_match", "execution_accuracy", "by_length", "by_operation", "beams", "calibration"} == set(made)


def test_attention_of_real_problems_stays_out_of_figures(trained, run, tmp_path):
    assert not list((trained / "figures").glob("attention*")) and list((trained / "galleries").glob("attention_*.png"))
    run.folder = shutil.copytree(trained, tmp_path / "run")
    attention = Attention(["a", "7", "<eos>"], ["negate", "n0", "<eos>"], np.full((3, 3), 1 / 3), [1])
    item = {"id": 3, "right": True, "gold": "negate(n0)", "attention": attention}
    pictures = {"split": "val", "attention": [item]}
    text2math_report.save_galleries(run, pictures)
    assert not list((run.folder / "figures").glob("attention*"))
    run.recipe["data"].pop("path")
    text2math_report.save_galleries(run, pictures)
    assert [path.name for path in (run.folder / "figures").glob("attention*")] == ["attention_right.png"]
    index = json.loads((run.folder / "galleries" / "attention.json").read_text())
    assert index["maps"][0]["predicted"] == ["negate", "n0"]


def test_an_attention_map_has_every_token_and_any_token_is_text():
    figure = text2math_figures.attention_map(["$", "x<b>", "$"], ["add", "#0"], np.eye(2, 3))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["add", "#0"]
    assert axis.get_images()[0].get_array().shape == (2, 3)
    svg = to_svg(figure, "a map")
    assert "x&lt;b&gt;" in svg and "<b>" not in svg


def test_the_curve_by_length_shows_the_lookup_where_it_has_the_part():
    numbers = {"exact_match": 0.5, "exact_match_interval": [0.4, 0.6], "execution_accuracy": 0.6, "samples": 9}
    top, bottom = text2math_figures.by_length({"1": numbers, "10 or more": numbers}, {"1": numbers}).axes
    assert [len(line.get_xdata()) for line in top.get_lines()] == [2, 1, 2]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["1", "10+"]
