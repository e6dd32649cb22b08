"""Sentences about one run of a model that splits scenes into slots, each written from its numbers and carrying them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .composition import speciality
from .figures import series
from .observations import observe_history, p_text, points, told_apart
from .report import interval, percent
from .runs import Run
from .scene_baselines import GRID, MEAN_COLOUR
from .scene_data import CLOSE
from .scene_figures import size_label
from .scene_results import grid_name
from .scene_scores import FOREGROUND, SOLVED

FEW = 10  # scenes below which a part is not spoken of
HARDLY = 0.1  # a foreground ARI no further than this above the grid's says little about objects
NAMES = {"val": "validation", "test": "test", "train": "training"}
Numbers = dict[str, Any]


def close_split(run: Run) -> str | None:
    """The split that was looked at closely: val where it was evaluated."""
    details = run.evaluation.get("splits") or {}
    return next((name for name in CLOSE if name in details), None)


def observe_scenes(run: Run) -> list[str]:
    """What stands out in one run, from its metrics.json and its history."""
    split = close_split(run)
    learning = [*_loss(run), *_learning(run)]
    if split is None:
        return learning
    numbers, details = run.metrics["metrics"], run.evaluation["splits"][split]
    sentences = []
    if details:
        sentences += [_level(numbers[split], details, split), *_against_grid(run, split)]
        sentences += [*_against_mean_colour(run, split), *_test(numbers, split), *_gap(numbers, split)]
        sentences += [*learning, *_objects(details), *_sizes(details), _slots(details, run)]
    else:
        sentences += [_without_masks(numbers[split], split), *_against_mean_colour(run, split)]
    return [*sentences, *_composition(run.evaluation.get("composition")), *_other_data(run)]


def _loss(run: Run) -> list[str]:
    epochs, loss = series(run.history, "val", "loss")
    if len(loss) < 2:
        return []
    lowest = int(np.argmin(loss))
    turned = (
        f"; it was lowest at epoch {epochs[lowest]:g}, {loss[lowest]:.4f}" if loss[-1] > 1.05 * loss[lowest] else ""
    )
    return [
        f"Validation loss went from {loss[0]:.4f} at epoch {epochs[0]:g} to {loss[-1]:.4f} at epoch {epochs[-1]:g}"
        f"{turned}."
    ]


def _learning(run: Run) -> list[str]:
    """The course of the foreground score, and when slots came to split objects."""
    sentences = observe_history(run.history.drop(columns="loss", errors="ignore"), FOREGROUND, "foreground ARI")
    epochs, scores = series(run.history, "val", FOREGROUND)
    if len(scores) >= 3 and scores.max() >= 0.5:
        reached = float(epochs[int(np.argmax(scores >= 0.5))])
        sentences.append(
            f"Foreground ARI on validation first passed {percent(0.5, 0)} at epoch {reached:g} of {epochs[-1]:g}."
        )
    return sentences


def rank_note(made: Numbers) -> str:
    """Why a Frechet distance's covariances have not full rank."""
    if made["images"] <= made["num_features"]:
        return f"fewer pictures than the {made['num_features']:,} features"
    return f"the pictures' features span fewer than their {made['num_features']:,} dimensions"


def with_masks(numbers: Numbers) -> int:
    """How many of a split's scenes have a mask to be scored by."""
    return numbers.get("samples_with_masks", numbers["samples"])


def _level(numbers: Numbers, details: Numbers, split: str) -> str:
    if FOREGROUND not in numbers:
        return (
            f"On {numbers['samples']:,} {NAMES[split]} scenes ARI over all pixels is "
            f"{percent(numbers['adjusted_rand_index'])}; no scene has an object, so there is no foreground ARI."
        )
    return (
        f"On {with_masks(numbers):,} {NAMES[split]} scenes foreground ARI is {percent(numbers[FOREGROUND])} (95\u00a0% "
        f"interval {interval(numbers[f'{FOREGROUND}_interval'])}) and ARI over all pixels "
        f"{percent(numbers['adjusted_rand_index'])} ({interval(numbers['adjusted_rand_index_interval'])}); mean IoU of "
        f"the objects is {percent(numbers['foreground_mean_iou'])}. The median scene has foreground ARI "
        f"{details['histogram']['median']:.2f}, and {percent(details['histogram']['solved'], 0)} of the scenes have "
        f"{SOLVED:g} or more."
    )


def _without_masks(numbers: Numbers, split: str) -> str:
    return (
        f"The {numbers['samples']:,} {NAMES[split]} scenes have no masks, so segmentations cannot be scored; the "
        f"squared error of a reconstruction is {numbers['reconstruction_mse']:.1f} on average."
    )


def _against_grid(run: Run, split: str) -> list[str]:
    """How far the masks are above or below rectangles that ignore the picture, and what that says of them."""
    baselines, numbers = run.evaluation.get("baselines") or {}, run.metrics["metrics"][split]
    test = baselines.get("splits", {}).get(split, {}).get("grid")
    if test is None:
        return []
    names = {"adjusted_rand_index": "ARI over all pixels", "foreground_mean_iou": "mean IoU of the objects"}
    gaps = {key: numbers[key] - numbers[f"{GRID}{key}"] for key in names}
    grid, gap = baselines["grid"], test["difference"]
    sure = gap if told_apart(test["p_value"], test["interval"]) else 0.0
    told = "" if sure else ", not told apart from it"
    beside = [
        f"in {name} ({percent(numbers[f'{GRID}{key}'])}) it is {points(gaps[key])} {_side(gaps[key])}"
        for key, name in names.items()
    ]
    return [
        f"A fixed grid of {grid_name(run)}, which ignores the picture, has foreground ARI "
        f"{percent(numbers[f'{GRID}{FOREGROUND}'])} on the same scenes (the best on {NAMES[grid['chosen_on']]} of at "
        f"most {grid['at_most']} cells): the model is {points(gap)} {_side(gap)} it{told} ({p_text(test['p_value'])}); "
        f"{' and '.join(beside)}. {_verdict(sure, gaps, names)}"
    ]


def _verdict(sure: float, gaps: dict[str, float], names: dict[str, str]) -> str:
    """What the distances from the grid say; `sure` is that of the foreground ARI, 0 where it is not told from 0."""
    if sure < 0:
        first = "By foreground ARI these masks part the objects less well than rectangles that ignore the picture"
    elif sure == 0:
        first = "Foreground ARI leaves the background out; by it these masks are not told apart from such rectangles"
    elif sure <= HARDLY:
        first = "Foreground ARI leaves the background out, and by it these masks are hardly above such rectangles"
    else:
        return "By foreground ARI these masks part the objects better than their place alone does."
    ahead = [names[key] for key, gap in gaps.items() if gap > HARDLY]
    better = f"; by {' and '.join(ahead)} they are better" if ahead else ""
    return f"{first}{better}."


def _side(gap: float) -> str:
    return "above" if gap >= 0 else "below"


def _against_mean_colour(run: Run, split: str) -> list[str]:
    """The squared error beside that of one colour for each picture."""
    numbers = run.metrics["metrics"][split]
    test = (run.evaluation.get("baselines") or {}).get("splits", {}).get(split, {}).get("mean_colour")
    if test is None:
        return []
    flat, error = numbers[f"{MEAN_COLOUR}reconstruction_mse"], numbers["reconstruction_mse"]
    gap = test["difference"]
    if not told_apart(test["p_value"], test["interval"]):
        verdict = f"not told apart from it ({p_text(test['p_value'])})"
    elif gap > 0:
        verdict = f"{gap:.1f} above it, worse than painting one colour ({p_text(test['p_value'])})"
    else:
        verdict = f"{-gap:.1f} below it ({p_text(test['p_value'])}), {percent(error / flat, 0)} of it"
    return [
        f"A picture painted with its own mean colour has a squared error of {flat:.1f} on average over the same "
        f"{test['samples']:,} scenes; that of the model's pictures, {error:.1f}, is {verdict}."
    ]


def _test(numbers: Numbers, split: str) -> list[str]:
    here, there = numbers[split], numbers.get("test", {})
    mine, bounds = here.get(f"{FOREGROUND}_interval"), there.get(f"{FOREGROUND}_interval")
    if split == "test" or mine is None or bounds is None or min(map(with_masks, (here, there))) < 2:
        return []
    overlap = bounds[0] <= mine[1] and mine[0] <= bounds[1]
    change = there[FOREGROUND] - here[FOREGROUND]
    return [
        f"On {with_masks(there):,} {NAMES['test']} scenes foreground ARI is {percent(there[FOREGROUND])} "
        f"({interval(bounds)}), {points(change)} {'above' if change >= 0 else 'below'} {NAMES[split]}: the "
        f"intervals {'overlap' if overlap else 'do not overlap'}."
    ]


def _gap(numbers: Numbers, split: str) -> list[str]:
    train, held_out = numbers.get("train", {}), numbers[split]
    if split == "train" or f"{FOREGROUND}_interval" not in train or FOREGROUND not in held_out:
        return []
    if min(map(with_masks, (train, held_out))) < 2:  # an interval of one scene tells nothing apart
        return []
    gap = train[FOREGROUND] - held_out[FOREGROUND]
    one, other = train[f"{FOREGROUND}_interval"], held_out[f"{FOREGROUND}_interval"]
    apart = one[0] > other[1] or one[1] < other[0]
    verdict = "more than the intervals explain" if apart else "which the intervals do not tell apart from no gap"
    return [
        f"On {with_masks(train):,} training scenes foreground ARI is {percent(train[FOREGROUND])}, {points(gap)} "
        f"{'above' if gap >= 0 else 'below'} {NAMES[split]}, {verdict}; the loss is {train['loss']:.4f} against "
        f"{held_out['loss']:.4f}."
    ]


def _objects(details: Numbers) -> list[str]:
    rows = {int(k): v for k, v in details["by_objects"].items() if v["samples"] >= FEW}
    if len(rows) < 2:
        return []
    few, many = min(rows), max(rows)
    change = rows[few][FOREGROUND] - rows[many][FOREGROUND]
    first, last = (rows[n][f"{FOREGROUND}_interval"] for n in (few, many))
    apart = first[0] > last[1] or last[0] > first[1]
    return [
        f"Foreground ARI {'falls' if change >= 0 else 'rises'} by {points(change)} from scenes of {few} "
        f"object{'' if few == 1 else 's'} ({percent(rows[few][FOREGROUND])} of {rows[few]['samples']:,}) to those of "
        f"{many} ({percent(rows[many][FOREGROUND])} of {rows[many]['samples']:,})"
        f"{'' if apart else ', within their intervals'}."
    ]


def _sizes(details: Numbers) -> list[str]:
    rows = [row for row in details["by_size"] if row["objects"] >= FEW]
    if len(rows) < 2:
        return []
    low, high = min(rows, key=lambda row: row["found"]), max(rows, key=lambda row: row["found"])
    if low["found"] == high["found"]:
        return [f"A slot has an IoU of 0.5 or more with {percent(low['found'], 0)} of the objects of every size."]
    return [
        f"A slot has an IoU of 0.5 or more with {percent(high['found'], 0)} of the objects that cover "
        f"{size_label(high)} of the picture ({high['objects']:,} objects), and with {percent(low['found'], 0)} of "
        f"those that cover {size_label(low)} ({low['objects']:,})."
    ]


def _slots(details: Numbers, run: Run) -> str:
    slots = details["slots"]
    floor = slots["background_overlap"]
    whole = "" if floor is None else f", the best of which has an IoU of {percent(floor)} with it"
    if slots["objects_in_background"] is not None:
        whole += f" and wins {percent(slots['objects_in_background'], 0)} of the objects' pixels too"
    return (
        f"A scene has {slots['objects']:.1f} objects on average, and {slots['used']:.1f} of its "
        f"{run.config.get('num_slots', '?')} slots win more than half a per cent of the picture; "
        f"{slots['on_background']:.1f} of them lie mostly on the background{whole}."
    )


def _composition(made: Numbers | None) -> list[str]:
    if not made:
        return []
    held = [f"cluster {i + 1} ({percent(f['share'], 0)}): {speciality(f)}" for i, f in enumerate(made["facts"])]
    fewer = ""
    if made["clusters"] < made["clusters_requested"]:
        fewer = f" ({made['clusters_requested']} were asked for, but there are no more different slots)"
    sentences = [
        f"K-means parts {made['slots']:,} slots of {made['library_images']:,} training pictures into "
        f"{made['clusters']} clusters{fewer}: {'; '.join(held)}."
    ]
    if "value" not in made:
        return [*sentences, f"The distance of composed pictures was not computed: {made['unavailable']}."]
    beside = [f"{made['reconstruction']:.1f} for their own reconstructions"]
    if "train" in made:
        beside.append(f"{made['train']:.1f} for as many training pictures")
    rank = f" ({rank_note(made)}: all of these are larger for it)" if not made["full_rank"] else ""
    sentences.append(
        f"{made['images']:,} pictures composed of one slot of each cluster are at {made['metric']} "
        f"{made['value']:.1f} from as many {NAMES[made['split']]} pictures; {' and '.join(beside)}{rank}."
    )
    return sentences


def _other_data(run: Run) -> list[str]:
    sentences = []
    for name, entry in (run.evaluation.get("other_data") or {}).items():
        numbers, given, size = entry["numbers"], entry.get("given"), entry["image_size"]
        if FOREGROUND not in numbers:
            continue
        beside = ""
        if given:
            beside = (
                f"; the masks that came with the data, at {size}x{size}, have {percent(given[FOREGROUND])} and "
                f"{percent(given['adjusted_rand_index'])}"
            )
        if f"{GRID}{FOREGROUND}" in numbers:
            beside += (
                f"; the fixed grid has {percent(numbers[f'{GRID}{FOREGROUND}'])} and "
                f"{percent(numbers[f'{GRID}adjusted_rand_index'])}"
            )
        sentences.append(
            f"On {numbers['samples']:,} scenes of {name}, without any training on them, foreground ARI is "
            f"{percent(numbers[FOREGROUND])} ({interval(numbers[f'{FOREGROUND}_interval'])}) and ARI over all pixels "
            f"{percent(numbers['adjusted_rand_index'])}{beside}."
        )
    return sentences
