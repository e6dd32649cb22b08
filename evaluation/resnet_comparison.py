"""How runs of the ResNet family are compared: accuracy on validation, the norms, and the batch sizes."""

from __future__ import annotations

import json

from training.arguments import RunArguments

from .comparison import (
    BATCH,
    Column,
    ComparisonRules,
    Outcomes,
    Tests,
    differing_settings,
    number_of,
)
from .figures import series
from .observations import p_text, points
from .predictions import load_predictions
from .report import percent
from .runs import Run


def data_key(run: Run) -> str:
    """What makes two runs' numbers comparable, for people: the data's name, size of image, number of classes, how a
    validation split was carved where the recipe says, and how many images it has."""
    data = run.recipe.get("data") or {}
    name = (
        str(data["path"]).rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar")
        if data.get("path")
        else f"generated pictures of seed {data.get('seed', 0)}"
    )
    carved = "".join(
        f", {key} {data[key]}" for key in ("split_seed", "val_fraction") if data.get("path") and key in data
    )
    samples = number_of(run, "val", "samples")
    validated = f", {samples:,} validation images" if samples else ""
    return f"{name} ({len(run.labels)} classes, {data.get('image_size', 64)} px{carved}{validated})"


def outcomes(run: Run, split: str) -> Outcomes | None:
    """Which images of a split were classified right, from the stored predictions."""
    stored = load_predictions(run.folder).get(split)
    return Outcomes(stored.ids, stored.labels, stored.right) if stored else None


def sentences(runs: list[Run], tests: Tests) -> list[str]:
    """The sanity check of the two batch norms, and what the batch size changed."""
    return [*_twins(runs, tests), *_batch_sizes(runs, tests)]


def _accuracy(run: Run) -> float | None:
    return number_of(run, "val", "accuracy")


def _twins(runs: list[Run], tests: Tests) -> list[str]:
    """The coursework's sanity check: `bn` and `torch_bn` with all other settings equal have the same curve."""
    by_norm = {run.config.get("norm"): i for i, run in enumerate(runs)}
    if not {"bn", "torch_bn"} <= set(by_norm):
        return []
    ours, torchs = by_norm["bn"], by_norm["torch_bn"]
    others = set(differing_settings([runs[ours], runs[torchs]])) - {"model.norm"}
    if others or None in (_accuracy(runs[ours]), _accuracy(runs[torchs])):
        return []
    gaps = []
    for metric in ("accuracy", "loss"):
        curves = [dict(zip(*series(runs[i].history, "val", metric), strict=True)) for i in (ours, torchs)]
        shared = sorted(curves[0].keys() & curves[1].keys())
        gaps.append(max((abs(curves[0][e] - curves[1][e]), e) for e in shared) if shared else None)
    if None in gaps:
        return []
    (accuracy, epoch), (loss, _) = gaps
    final = abs(_accuracy(runs[ours]) - _accuracy(runs[torchs]))
    test = tests.get((ours, torchs))
    verdict = (
        f"; {test.only_first + test.only_second} images decided differently, {p_text(test.p_value)}" if test else ""
    )
    return [
        f"Sanity check: the validation curves of bn and torch_bn differ by at most {points(accuracy)} of accuracy "
        f"(epoch {epoch:.3g}) and {loss:.3f} of loss; at the end they are {points(final)} apart{verdict}."
    ]


def _batch_sizes(runs: list[Run], tests: Tests) -> list[str]:
    """Smallest against largest batch of every net on the same data; rate, warm-up and epochs may follow the batch."""
    nets: dict[str, dict[int, int]] = {}
    for i, run in enumerate(runs):
        training = run.recipe.get("training") or {}
        fixed = [run.recipe.get("model"), data_key(run), training.get("seed", RunArguments.seed)]
        if isinstance(size := training.get(BATCH), int) and _accuracy(run) is not None:
            nets.setdefault(json.dumps(fixed, sort_keys=True, default=str), {}).setdefault(size, i)
    found = []
    for sizes in nets.values():
        if len(sizes) < 2:
            continue
        small, large = min(sizes), max(sizes)
        i, j = sizes[small], sizes[large]
        norm = runs[i].config.get("norm")
        change = _accuracy(runs[i]) - _accuracy(runs[j])
        verdict = f" ({p_text(tests[i, j].p_value)} on the same images)" if (i, j) in tests else ""
        found.append(
            f"{norm}: at batch {small} validation accuracy is {points(change)} "
            f"{'higher' if change >= 0 else 'lower'} than at batch {large}, "
            f"{percent(_accuracy(runs[i]))} against {percent(_accuracy(runs[j]))}{verdict}."
        )
    return found


RULES = ComparisonRules(
    columns=(
        Column("Val accuracy", "val", "accuracy"),
        Column("Val macro F1", "val", "f1_macro"),
        Column("Val loss", "val", "loss", min, share=False),
        Column("Calibration", "val", "calibration_error", min, share=False),
        Column("Test accuracy", "test", "accuracy"),
        Column("Test macro F1", "test", "f1_macro"),
        Column("Train accuracy", "train", "accuracy", None),
        Column("Train macro F1", "train", "f1_macro", None),
    ),
    metric="accuracy",
    metric_name="accuracy",
    unit="images",
    split_of=lambda runs: "val",
    data_key=data_key,
    outcomes=outcomes,
    variant=lambda run: str(run.config.get("norm", run.folder.name)),
    sentences=sentences,
    note="Micro F1 equals accuracy and has no column of its own.",
)
