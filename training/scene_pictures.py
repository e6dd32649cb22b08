"""Pictures of segmentations: label maps in colour, and sheets with a row per scene."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from scipy.optimize import linear_sum_assignment
from torchvision.utils import make_grid

from metrics.label_maps import contingency_tables, intersection_over_union

BACKGROUND = (58, 56, 54)
LEAST_ERROR = 1e-10  # of an image, in [0, 1]: an exact reconstruction has a PSNR of 100 dB and not infinity
SHEET_COLUMNS = "image, true masks, predicted masks, reconstruction"


def _palette() -> np.ndarray:
    """A colour for each label, uint8 [256, 3]: 0 is dark grey, then tab10 without its grey, then tab20b."""
    strong = [colour for number, colour in enumerate(colormaps["tab10"].colors) if number != 7]
    colours = np.array([*strong, *colormaps["tab20b"].colors])
    repeated = np.resize(np.round(255 * colours).astype(np.uint8), (255, 3))
    return np.concatenate([np.array([BACKGROUND], dtype=np.uint8), repeated])


PALETTE = _palette()


def paint(labels: np.ndarray) -> np.ndarray:
    """Label maps [..., H, W] of integers from 0 to 255 in colour, uint8 [..., H, W, 3]."""
    return PALETTE[labels]


def match_segments(predicted: np.ndarray, true: np.ndarray) -> dict[int, tuple[int, float]]:
    """Which predicted segment stands for which true one, and their IoU: one to one, so that its sum is largest.

    Pairs without a common pixel are left out. Both are label maps [H, W] of integers from 0 to 255.
    """
    predicted_labels, predicted_index = np.unique(predicted, return_inverse=True)
    true_labels, true_index = np.unique(true, return_inverse=True)
    tables = contingency_tables(true_index.reshape(1, -1), predicted_index.reshape(1, -1))
    overlaps = intersection_over_union(tables)[0]
    pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    return {
        int(predicted_labels[p]): (int(true_labels[t]), float(overlaps[t, p])) for t, p in pairs if overlaps[t, p] > 0
    }


def in_true_colours(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The predicted label map [H, W] renumbered, uint8: a matched segment has the label of its true one, the others
    have labels that no true one has, in their order: above all true ones where there is room."""
    matched = match_segments(predicted, true)
    taken, highest = set(np.unique(true).tolist()), int(true.max())
    free = [*range(highest + 1, 256), *(label for label in range(highest) if label not in taken)]
    surplus = itertools.cycle(free or [highest])
    renumbered = np.zeros(256, dtype=np.uint8)
    for label in np.unique(predicted).tolist():
        renumbered[label] = matched[label][0] if label in matched else next(surplus)
    return renumbered[predicted]


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Images [..., 3, H, W] in [-1, 1] -> uint8 [..., H, W, 3], clipped."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


def sheet(columns: Sequence[np.ndarray], smallest: int = 96, gap: int = 3) -> np.ndarray:
    """One picture uint8 of columns uint8 [N, H, W, 3]: a row for each scene, on white.

    Pictures are enlarged by a whole factor, without smoothing, to at least `smallest` pixels.
    """
    cells = torch.from_numpy(np.stack(columns, axis=1)).flatten(0, 1).permute(0, 3, 1, 2)  # [N * columns, 3, H, W]
    factor = max(1, -(-smallest // cells.shape[-1]))
    cells = cells.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return make_grid(cells, nrow=len(columns), padding=gap, pad_value=255).permute(1, 2, 0).numpy()


def scene_sheet(
    images: np.ndarray, true: np.ndarray | None, predicted: np.ndarray, reconstructions: np.ndarray
) -> np.ndarray:
    """The sheet of scenes: image, true masks, predicted masks in the colours of the true ones, reconstruction.

    Args:
        images, reconstructions: uint8 [N, H, W, 3].
        true, predicted: label maps uint8 [N, H, W]; without true ones the second column is left out.
    """
    if true is None:
        return sheet([images, paint(predicted + 1), reconstructions])
    matched = np.stack([in_true_colours(p, t) for p, t in zip(predicted, true, strict=True)])
    return sheet([images, paint(true), paint(matched), reconstructions])


def psnr(mean_squared_errors: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of images in [0, 1] with these errors, at most 100."""
    return -10 * np.log10(np.maximum(mean_squared_errors, LEAST_ERROR))
