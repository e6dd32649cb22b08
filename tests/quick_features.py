"""A Frechet distance of cheap features, for tests of what is done with distances: the colours of 2x2 parts."""

from types import SimpleNamespace

import numpy as np

from metrics.frechet import frechet_distance

NAME = "frechet_colours"


class QuickMetric:
    """As `metrics.load("frechet_distance")` gives, in 12 features."""

    extractor = SimpleNamespace(distance_name=NAME)
    config_name = "colours"

    def __len__(self):  # as an `evaluate` module to which no batch was added: it is false where it is asked for a truth
        return 0

    def extract(self, images):
        batch, size = len(images), images.shape[1] // 2
        parts = images.reshape(batch, 2, size, 2, size, 3).mean(axis=(2, 4)) / 255
        return parts.reshape(batch, 12).astype(np.float32)

    def compute(self, predictions, references):
        full = min(len(predictions), len(references)) > 12
        return {NAME: 1000 * frechet_distance(predictions, references), "num_features": 12, "full_rank": full}


def quick_metric():
    """In place of `evaluation.frechet.first_metric`."""
    return QuickMetric(), ["inception"]
