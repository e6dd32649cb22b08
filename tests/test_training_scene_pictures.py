"""Label maps in colour, and the sheets of scenes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.scene_pictures import BACKGROUND, PALETTE, in_true_colours, match_segments, paint, scene_sheet, to_pixels

LABELS = arrays(np.uint8, (5, 6), elements=st.integers(0, 4))


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def best_total(predicted, true):
    """The largest sum of IoU of a one-to-one matching, by trying them all."""
    left, right = np.unique(predicted).tolist(), np.unique(true).tolist()
    swap = len(left) > len(right)
    few, many = (right, left) if swap else (left, right)
    totals = []
    for chosen in itertools.permutations(many, len(few)):
        pairs = [(c, f) if swap else (f, c) for f, c in zip(few, chosen, strict=True)]
        totals.append(sum(iou(predicted == p, true == t) for p, t in pairs))
    return max(totals)


def test_true_labels_that_leave_no_room_above_them():
    predicted = np.repeat(np.arange(4, dtype=np.uint8), 4).reshape(4, 4)
    true = np.where(np.arange(16).reshape(4, 4) < 8, 255, 0).astype(np.uint8)  # a mask of 0 and 255
    drawn = in_true_colours(predicted, true)
    assert {0, 255} < set(np.unique(drawn).tolist()) and len(np.unique(drawn)) == 4


@settings(max_examples=60, deadline=None)
@given(LABELS, LABELS)
def test_matching_is_the_best_of_all(predicted, true):
    matched = match_segments(predicted, true)
    for label, (segment, overlap) in matched.items():
        assert overlap == pytest.approx(iou(predicted == label, true == segment)) and overlap > 0
    assert len({segment for segment, _ in matched.values()}) == len(matched)
    assert sum(overlap for _, overlap in matched.values()) == pytest.approx(best_total(predicted, true))


@settings(max_examples=40, deadline=None)
@given(LABELS, LABELS)
def test_in_true_colours_only_renames(predicted, true):
    renamed = in_true_colours(predicted, true)
    pairs = set(zip(predicted.ravel().tolist(), renamed.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    surplus = [b for a, b in pairs if a not in match_segments(predicted, true)]
    assert all(label > true.max() for label in surplus)


def test_a_permuted_truth_gets_its_own_colours_back():
    true = np.array([[0, 0, 1], [2, 2, 1]], dtype=np.uint8)
    assert np.array_equal(in_true_colours((true + 7) % 11, true), true)


def test_colours_are_apart_and_the_background_is_grey():
    assert tuple(PALETTE[0]) == BACKGROUND
    first = {tuple(colour) for colour in PALETTE[:20].tolist()}
    assert len(first) == 20
    assert paint(np.zeros((2, 3, 4), np.uint8)).shape == (2, 3, 4, 3)


def test_pixels_are_clipped_and_rounded():
    image = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5]).expand(3, 1, 5)
    assert to_pixels(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_sheet_has_a_row_per_scene_and_its_pictures_unsmoothed():
    rng = np.random.default_rng(0)
    images, again = rng.integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    true, predicted = rng.integers(0, 3, (2, 3, 16, 16), dtype=np.uint8)
    drawn = scene_sheet(images, true, predicted, again)
    cell = 96 + 3
    assert drawn.shape == (3 * cell + 3, 4 * cell + 3, 3)
    assert (drawn[:3] == 255).all()
    for row in range(3):
        top = row * cell + 3
        enlarged = drawn[top : top + 96, 3:99]
        assert np.array_equal(enlarged[::6, ::6], images[row]) and np.array_equal(enlarged[5::6, 5::6], images[row])
        assert np.array_equal(drawn[top : top + 96 : 6, 3 + cell : 3 + cell + 96 : 6], paint(true[row]))
    assert scene_sheet(images, None, predicted, again).shape[1] == 3 * cell + 3
