"""Sentences about one run of the VQ-VAE family, each written from its numbers and carrying them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .figures import series
from .report import percent
from .runs import Run
from .scene_observations import NAMES, close_split, rank_note

EVEN = 0.5  # perplexity over codes in use from which they count as evenly used
Numbers = dict[str, Any]


def decibels(value: float, bounds: list[float] | None = None) -> str:
    """27.31 -> "27.3 dB", with the interval in brackets."""
    inside = f" (95\u00a0% interval {bounds[0]:.1f} to {bounds[1]:.1f})" if bounds else ""
    return f"{value:.1f}\u00a0dB{inside}"


def observe_autoencoder(run: Run) -> list[str]:
    """What stands out in one run, from its metrics.json and its history."""
    split = close_split(run)
    if split is None:
        return _learning(run)
    numbers, details = run.metrics["metrics"], run.evaluation["splits"][split]
    sentences = [_level(numbers[split], details, split), *_others(numbers, split), *_learning(run)]
    sentences += [_codebook(numbers[split], details), _size(details, run), _latents(details)]
    return [*sentences, *_distance(run.evaluation.get("frechet"))]


def _level(numbers: Numbers, details: Numbers, split: str) -> str:
    share = ""
    if "explained_variance" in numbers:
        share = (
            f", which leaves {percent(1 - numbers['explained_variance'], 2)} of the variance of the colours unexplained"
        )
    levels = details["psnr"]
    return (
        f"On {numbers['samples']:,} {NAMES[split]} pictures the reconstruction has a PSNR of "
        f"{decibels(numbers['psnr'], numbers['psnr_interval'])}{share}; the worst picture has "
        f"{decibels(levels['lowest'])}, the best {decibels(levels['highest'])}."
    )


def _others(numbers: Numbers, split: str) -> list[str]:
    sentences, mine = [], numbers[split]
    for other in ("test", "train"):
        there = numbers.get(other, {})
        bounds = there.get("psnr_interval")
        if other == split or bounds is None:
            continue
        overlap = bounds[0] <= mine["psnr_interval"][1] and mine["psnr_interval"][0] <= bounds[1]
        change = there["psnr"] - mine["psnr"]
        sentences.append(
            f"On {there['samples']:,} {NAMES[other]} pictures it is {decibels(there['psnr'], bounds)}, "
            f"{abs(change):.2f}\u00a0dB {'above' if change >= 0 else 'below'} {NAMES[split]}: the intervals "
            f"{'overlap' if overlap else 'do not overlap'}."
        )
    return sentences


def _learning(run: Run) -> list[str]:
    sentences = []
    epochs, levels = series(run.history, "val", "psnr")
    if len(levels) >= 2:
        best = int(np.argmax(levels))
        last = (
            "the highest of all" if best == len(levels) - 1 else f"after {levels[best]:.1f} at epoch {epochs[best]:g}"
        )
        sentences.append(
            f"PSNR on validation went from {decibels(levels[0])} at epoch {epochs[0]:g} to {decibels(levels[-1])} at "
            f"epoch {epochs[-1]:g}, {last}."
        )
    fifth = len(levels) // 5
    if fifth >= 2:
        gain = float(levels[-fifth:].mean() - levels[-2 * fifth : -fifth].mean())
        sentences.append(
            f"The last fifth of the evaluations has {abs(gain):.2f}\u00a0dB {'more' if gain >= 0 else 'less'} than the "
            "fifth before it."
        )
    epochs, used = series(run.history, "val", "codebook_use")
    if len(used) >= 2 and used.max() > 0:
        sentences.append(
            f"The share of the codebook in use on validation went from {percent(used[0])} to {percent(used[-1])} "
            f"(lowest {percent(used.min())} at epoch {epochs[int(np.argmin(used))]:g})."
        )
    return sentences


def _codebook(numbers: Numbers, details: Numbers) -> str:
    shares = np.asarray(details["codes"])
    used, even = len(shares), numbers["perplexity"] / len(shares)
    half = int(np.searchsorted(np.cumsum(shares), 0.5)) + 1
    verdict = "evenly used" if even >= EVEN else "unevenly used"
    return (
        f"{used:,} of {details['num_codes']:,} codes occur ({percent(numbers['codebook_use'])}), with a perplexity of "
        f"{numbers['perplexity']:,.1f}, {percent(even, 0)} of what as many codes could have: {verdict}. The most "
        f"frequent code takes {percent(shares[0])} of the positions, and {half:,} codes make up half of them."
    )


def _size(details: Numbers, run: Run) -> str:
    bits = details["positions"] * math.log2(details["num_codes"])
    raw = 8 * details["values"]
    channels = run.config.get("num_channels", 3)
    return (
        f"A picture becomes {details['positions']:,} codes of {math.log2(details['num_codes']):.1f} bits, "
        f"{bits / 8:,.0f} bytes instead of {raw / 8:,.0f}: {bits / (details['values'] / channels):.2f} bits per pixel, "
        f"{raw / bits:.0f} times less."
    )


def _latents(details: Numbers) -> str:
    std, mean = np.asarray(details["latent_std"]), np.asarray(details["latent_mean"])
    whole = float(np.sqrt(np.square(std).mean() + np.square(mean).mean()))
    listed = ", ".join(f"{value:.2f}" for value in std)
    scale = f": times {1 / whole:.3f} they would have it 1, which is what diffusion's noise has" if whole > 0 else ""
    return f"Latents have standard deviation {listed} by channel and root mean square {whole:.3f}{scale}."


def _distance(entry: Numbers | None) -> list[str]:
    if not entry:
        return []
    if "value" not in entry:
        return [f"The distance of reconstructions was not computed: {entry['unavailable']}."]
    beside = f"; {entry['train']:.1f} for as many training pictures" if "train" in entry else ""
    larger = "both are" if "train" in entry else "it is"
    rank = "" if entry["full_rank"] else f" ({rank_note(entry)}: {larger} larger for it)"
    return [
        f"{entry['images']:,} reconstructions are at {entry['metric']} {entry['value']:.1f} from their pictures"
        f"{beside}{rank}. In the same features a picture and its reconstruction differ by "
        f"{entry['feature_distance']:.3f} (1 - cosine, {_bounds(entry['feature_distance_interval'])})."
    ]


def _bounds(bounds: list[float]) -> str:
    return f"95\u00a0% interval {bounds[0]:.3f} to {bounds[1]:.3f}"
