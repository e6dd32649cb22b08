import re

import numpy as np
from trained_run import history

from evaluation.observations import observe_history, observe_run
from evaluation.predictions import Predictions
from evaluation.runs import Run
from evaluation.scores import score

NAMES = ["Egret", "Hoopoe", "Myna"]


def predictions(right: float, confidence: float, samples: int = 300, seed: int = 0) -> Predictions:
    """A classifier with this accuracy and confidence; its mistakes are all "next class"."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    chosen = np.where(rng.random(samples) < right, labels, (labels + 1) % 3)
    probabilities = np.full((samples, 3), (1 - confidence) / 2, np.float32)
    probabilities[np.arange(samples), chosen] = confidence
    losses = -np.log(probabilities[np.arange(samples), labels])
    return Predictions(np.arange(samples), labels, probabilities, losses)


def run(tmp_path, history_table=None, grad_cam=None, **splits: Predictions) -> Run:
    metrics, details = {}, {}
    for split, predicted in splits.items():
        metrics[split], details[split] = score(predicted, NAMES)
    evaluation = {"splits": details} | ({"grad_cam": grad_cam} if grad_cam else {})
    config = {"id2label": dict(enumerate(NAMES)), "norm": "bn", "n": 1}
    table = history([]) if history_table is None else history_table
    return Run(
        tmp_path, {"name": "x", "model_family": "resnet"}, config, {"metrics": metrics, "evaluation": evaluation}, table
    )


def text(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\u00a0", " ")


def test_every_sentence_carries_a_number(tmp_path):
    cam = {
        "right": {"count": 9, "centre_share": 0.4, "entropy": 0.8},
        "wrong": {"count": 9, "centre_share": 0.3, "entropy": 0.9},
    }
    made = run(
        tmp_path,
        history([0.2] * 15),
        cam | {"entropy_p": 0.2, "empty": 3},
        train=predictions(0.9, 0.8),
        val=predictions(0.7, 0.9),
    )
    sentences = observe_run(made)
    assert len(sentences) >= 9
    assert all(re.search(r"\d", sentence) for sentence in sentences)
    assert "3 of 21 maps are empty" in text(sentences)


def test_a_gap_is_called_memorising_only_beyond_the_intervals(tmp_path):
    wide = text(observe_run(run(tmp_path, train=predictions(0.99, 0.9), val=predictions(0.6, 0.6))))
    narrow = text(observe_run(run(tmp_path, train=predictions(0.62, 0.6), val=predictions(0.6, 0.6))))
    assert "memorised" in wide and "memorised" not in narrow
    assert "do not tell apart" in narrow


def test_calibration_is_named_by_its_direction(tmp_path):
    sure = text(observe_run(run(tmp_path, val=predictions(0.6, 0.95))))
    shy = text(observe_run(run(tmp_path, val=predictions(0.95, 0.5))))
    assert "overconfident by" in sure and "underconfident by" in shy
    fair = predictions(0.8, 0.74)  # right on 73.7 %
    assert "within the interval" in text(observe_run(run(tmp_path, val=fair)))


def test_confusions_and_lowest_recall_name_the_classes_that_the_numbers_name(tmp_path):
    predicted = predictions(1.0, 0.9)
    wrong = np.flatnonzero(predicted.labels == 2)[:40]
    predicted.probabilities[wrong] = [0.9, 0.05, 0.05]
    said = text(observe_run(run(tmp_path, val=predicted)))
    assert "Of 40 errors, 100 % are of one kind: Myna as Egret (40 images, 40 % of its class)" in said
    assert "Lowest recall: Myna (60 %, 100 images" in said
    assert "All 300 validation images are classified right" in text(
        observe_run(run(tmp_path, val=predictions(1.0, 0.9)))
    )


def test_chance_level_is_said_to_be_chance_level(tmp_path):
    assert "not distinguishable from" in text(observe_run(run(tmp_path, val=predictions(0.33, 0.4, samples=60))))
    assert "well above" in text(observe_run(run(tmp_path, val=predictions(0.9, 0.9))))


def test_history_tells_best_from_last():
    assert "peaked at epoch 2 with 60.0 %; the last epoch (3) is 10.0 points lower" in text(
        observe_history(history([0.2, 0.6, 0.5]))
    )
    assert "The last epoch (3) is also the best" in text(observe_history(history([0.2, 0.5, 0.6])))
    assert observe_history(history([0.5])) == []


def test_history_tells_rising_from_levelled_off():
    rng = np.random.default_rng(0)
    rising = np.linspace(0.2, 0.8, 20) + rng.normal(0, 0.005, 20)
    flat = np.concatenate([np.linspace(0.2, 0.6, 8), 0.6 + rng.normal(0, 0.01, 12)])
    assert "still rising" in text(observe_history(history(list(rising))))
    assert "had levelled off" in text(observe_history(history(list(flat))))


def test_rising_validation_loss_is_overconfidence_only_where_accuracy_held():
    losses = [1.0, 0.5, 0.9]
    assert "grew overconfident" in text(observe_history(history([0.2, 0.5, 0.6], losses)))
    fallen = text(observe_history(history([0.2, 0.6, 0.3], losses)))
    assert "lowest at epoch 2 (0.500)" in fallen and "overconfident" not in fallen
