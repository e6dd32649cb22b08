import dataclasses

import numpy as np
import pytest
from test_evaluation_observations import NAMES, predictions, text
from trained_run import history

from evaluation import comparison
from evaluation.predictions import Predictions, save_predictions
from evaluation.runs import Run
from evaluation.scores import score
from evaluation.statistics import holm


def make(tmp_path, name: str, predicted: Predictions, accuracies=(0.2, 0.5), batch: int = 32, **config) -> Run:
    folder = tmp_path / name
    save_predictions(folder, {"val": predicted}, "digest")
    numbers, details = score(predicted, NAMES)
    training = {
        "seconds": 10 * len(name),
        "epochs": 2,
        "machine": "m",
        "parameters": 1000,
        "command": f"train.py {name}",
    }
    recipe = {"name": name, "model_family": "resnet", "model": dict(config), "data": {"image_size": 32}}
    recipe["training"] = {comparison.BATCH: batch}
    config = {"id2label": dict(enumerate(NAMES)), **config}
    metrics = {"metrics": {"val": numbers}, "evaluation": {"splits": {"val": details}}, "training": training}
    return Run(folder, recipe, config, metrics, history(list(accuracies)))


def observe(runs: list[Run]) -> str:
    return text(comparison.observe_comparison(runs, comparison.paired_tests(runs)))


def test_the_best_is_bold_in_every_column_and_only_it(tmp_path):
    runs = [
        make(tmp_path, "1_bn", predictions(0.9, 0.9), norm="bn"),
        make(tmp_path, "2_none", predictions(0.5, 0.5), norm="none"),
    ]
    table = comparison.results_table(runs, tmp_path)
    assert [row[0].value for row in table.rows] == ["bn", "none"]
    assert table.rows[0][0].href == "1_bn/report.html"
    accuracy = table.columns.index("Val accuracy")
    assert table.rows[0][accuracy].best and not table.rows[1][accuracy].best


def test_nothing_is_bold_across_different_data(tmp_path):
    runs = [make(tmp_path, "a", predictions(0.9, 0.9)), make(tmp_path, "b", predictions(0.5, 0.5))]
    runs[1].recipe["data"] = {"image_size": 64}
    assert not any(cell.best for row in comparison.results_table(runs, tmp_path).cells() for cell in row)
    assert "different data" in observe(runs)
    assert "different data" in comparison.results_table(runs, tmp_path).caption
    assert "different data" not in comparison.results_table(runs[:1], tmp_path).caption
    runs[1].recipe["data"] = {"image_size": 32, "seed": 1}  # other pictures, though their ids and labels are the same
    assert comparison.paired_tests(runs) == {}
    said = observe(runs)
    assert (
        "different data" in said and "is reached" not in said and "An epoch" not in said and "same images" not in said
    )


def test_nothing_is_bold_in_a_column_of_numbers_on_different_counts(tmp_path):
    runs = [make(tmp_path, "a", predictions(0.9, 0.9)), make(tmp_path, "b", predictions(0.5, 0.5))]
    rules = comparison.rules_of(runs)
    counted = comparison.Column("Val loss", "val", "loss", min, share=False, basis=lambda run, split: run.name)
    rules = dataclasses.replace(rules, columns=(*rules.columns[:1], counted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "rules_of", lambda runs: rules)
        rows = comparison.results_table(runs, tmp_path).rows
    assert rows[0][1].best and not rows[0][2].best and not rows[1][2].best


def test_equal_runs_and_ties_are_said_as_such(tmp_path):
    same = [make(tmp_path, name, predictions(0.9, 0.9)) for name in ("a", "b")]
    assert observe(same).startswith("All 2 runs have a validation accuracy of 86.0")
    assert "is reached by a, b, in epoch 2." in observe(same)
    third = make(tmp_path, "c", predictions(0.9, 0.9), accuracies=(0.5, 0.5))
    assert "is reached first by c, in epoch 1, and last by a, b, in epoch 2." in observe([*same, third])


def test_p_values_are_corrected_for_all_pairs_of_runs(tmp_path):
    runs = [make(tmp_path, name, predictions(0.6, 0.9, seed=i)) for i, name in enumerate("abcd")]
    tests = comparison.paired_tests(runs)
    best = comparison.best_of(runs)
    pairs = sorted(pair for pair in tests if pair[0] < pair[1])
    expected = dict(zip(pairs, holm([tests[pair].p_value for pair in pairs]), strict=True))
    found = {j: p for j, _, p in comparison._against_best(runs, tests)}
    assert len(pairs) == 6 and found == {j: expected[min(best, j), max(best, j)] for j in range(4) if j != best}


def test_the_gap_between_train_and_validation_has_a_sign(tmp_path):
    runs = [make(tmp_path, name, predictions(0.8, 0.9)) for name in ("a", "b")]
    for run, gap in zip(runs, (0.026, -0.041), strict=True):
        run.metrics["metrics"]["train"] = {"accuracy": run.metrics["metrics"]["val"]["accuracy"] + gap}
    said = observe(runs).replace("\u00a0", " ")
    assert (
        "Accuracy on train less that on validation is largest for a (2.6 points) and smallest for b (-4.1 points)"
        in said
    )


def test_differences_are_called_real_only_where_the_paired_test_says_so(tmp_path):
    best, far = predictions(0.9, 0.9), predictions(0.5, 0.5, seed=1)
    near = predictions(0.9, 0.9)
    flip = np.flatnonzero(near.right)[:3]
    near.probabilities[flip] = np.roll(near.probabilities[flip], 1, axis=1)
    said = observe([make(tmp_path, "bn", best), make(tmp_path, "gn", near), make(tmp_path, "none", far)])
    assert "bn is better than chance allows over none" in said
    assert "Not told apart from bn by these images: gn (1.0 points" in said


def test_runs_on_other_samples_are_not_paired(tmp_path):
    other = predictions(0.9, 0.9)
    other.ids = other.ids + 1000
    runs = [make(tmp_path, "a", predictions(0.9, 0.9)), make(tmp_path, "b", other)]
    assert comparison.paired_tests(runs) == {}


def test_pairing_goes_by_id_and_not_by_position(tmp_path):
    ordered = predictions(0.8, 0.9)
    shuffle = np.random.default_rng(0).permutation(len(ordered))
    shuffled = Predictions(*(value[shuffle] for value in vars(ordered).values()))
    runs = [make(tmp_path, "a", ordered), make(tmp_path, "b", shuffled)]
    test = comparison.paired_tests(runs)[0, 1]
    assert test.only_first == test.only_second == 0


def test_twins_are_compared_only_where_nothing_else_differs(tmp_path):
    ours = make(tmp_path, "bn", predictions(0.9, 0.9), accuracies=(0.2, 0.50), norm="bn")
    torchs = make(tmp_path, "torch_bn", predictions(0.9, 0.9), accuracies=(0.2, 0.53), norm="torch_bn")
    assert "differ by at most 3.0 points of accuracy (epoch 2)" in observe([ours, torchs])
    torchs.recipe["training"]["learning_rate"] = 1.0
    assert "Sanity check" not in observe([ours, torchs])


def test_batch_sizes_are_compared_within_a_norm(tmp_path):
    small = make(tmp_path, "bn8", predictions(0.6, 0.9), batch=8, norm="bn")
    large = make(tmp_path, "bn128", predictions(0.9, 0.9), batch=128, norm="bn")
    said = observe([small, large])
    assert "bn: at batch 8 validation accuracy is" in said and "lower than at batch 128" in said
    small.recipe["training"]["learning_rate"] = 0.01  # which follows the batch
    assert "bn: at batch 8 validation accuracy is" in observe([small, large])
    small.recipe["model"]["n"] = 9
    assert "at batch 8" not in observe([small, large])


def test_names_are_distinct_however_many_folders_it_takes(tmp_path):
    runs = [make(tmp_path, name, predictions(0.9, 0.9)) for name in ("a/resnet/t1", "b/resnet/t1", "b/gn", "c/t2")]
    assert comparison.labels_of(runs) == ["a/resnet/t1", "b/resnet/t1", "gn", "t2"]


def test_other_numbers_of_drawn_pictures_are_other_data(tmp_path):
    runs = [make(tmp_path, "a", predictions(0.9, 0.9)), make(tmp_path, "b", predictions(0.9, 0.5))]
    assert comparison.are_comparable(runs)
    runs[1].metrics["metrics"]["val"]["samples"] += 1
    assert not comparison.are_comparable(runs)


def test_settings_that_differ_and_no_others(tmp_path):
    runs = [
        make(tmp_path, "a", predictions(0.9, 0.9), norm="bn"),
        make(tmp_path, "b", predictions(0.9, 0.9), norm="gn", num_groups=4),
    ]
    assert comparison.differing_settings(runs) == {"model.norm": ["bn", "gn"], "model.num_groups": [None, 4]}


def test_the_report_holds_every_part(tmp_path):
    runs = [
        make(tmp_path, "bn", predictions(0.9, 0.9), norm="bn"),
        make(tmp_path, "gn", predictions(0.5, 0.6), norm="gn"),
    ]
    report = comparison.build_comparison(runs, "study", [], tmp_path)
    titles = [section.title for section in report.sections if section.blocks]
    assert titles == ["Results", "Observations", "Differences on the same images", "What differs", "Time and commands"]
