"""The drawn birds: reproducible, varied, and too hard for a linear classifier."""

import time

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.bird_pictures import MARKS, SPECIES, bird_picture
from data.bird_species import TABLE


def thumbnail(image, side=16):
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / 255


def test_species_are_the_25_in_natural_order():
    assert len(SPECIES) == len(set(SPECIES)) == 25
    assert sorted(SPECIES) == SPECIES
    assert (SPECIES[0], SPECIES[13], SPECIES[24]) == ("Asian-Green-Bee-Eater", "Indian-Peacock", "White-Wagtail")


def test_every_marking_can_be_painted():
    painted_with_the_tail = {"tip", "eyespots"}
    assert {name for species in TABLE for name, _ in species.marks} == set(MARKS) | painted_with_the_tail


@pytest.mark.parametrize("label", range(25))
def test_a_picture_is_a_function_of_seed_split_and_index(label):
    first = bird_picture(label, "train", 7, seed=3, size=32)
    assert first.mode == "RGB"
    assert first.tobytes() == bird_picture(label, "train", 7, seed=3, size=32).tobytes()
    others = [bird_picture(label, *which, size=32) for which in (("val", 7, 3), ("train", 8, 3), ("train", 7, 4))]
    assert all(np.abs(thumbnail(first) - thumbnail(other)).mean() > 0.01 for other in others)


def test_the_composition_does_not_depend_on_the_size():
    for index in range(12):
        small, large = (thumbnail(bird_picture(index, "train", index, size=size)) for size in (64, 160))
        assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_sizes_and_shapes_vary():
    sizes = {bird_picture(0, "train", index, size=64).size for index in range(60)}
    assert min(min(size) for size in sizes) < 48
    assert max(max(size) for size in sizes) > 90
    assert len({width > height for width, height in sizes}) == 2


def test_the_species_changes_the_picture():
    """The same draw for two species does not give the same picture."""
    for label in range(1, 25):
        a, b = (np.asarray(bird_picture(k, "train", 5, size=64), dtype=int) for k in (0, label))
        changed = (np.abs(a - b).max(axis=2) > 24).mean()
        assert changed > 0.005


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_linear_classifier_is_better_than_chance_and_far_from_enough():
    x, x_val = (
        np.stack([thumbnail(bird_picture(i % 25, split, i, size=24)).ravel() for i in range(count)])
        for split, count in (("train", 1000), ("val", 400))
    )
    y, y_val = np.arange(1000) % 25, np.arange(400) % 25
    # 40 steps do not converge, and need not
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=40)).fit(x, y)
    assert model.score(x, y) > 0.4  # it did learn
    assert 0.07 < model.score(x_val, y_val) < 0.6  # chance is 0.04


def test_hundreds_of_pictures_a_second():
    best = 0.0
    for _ in range(2):
        start = time.process_time()
        for index in range(50):
            bird_picture(index % 25, "train", index, size=64)
        best = max(best, 50 / (time.process_time() - start))
    assert best > 150  # 480 on the machine it was written on
