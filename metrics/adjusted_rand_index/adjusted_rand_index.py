"""Adjusted Rand index of segmentations, per image."""

import datasets
import evaluate
import numpy as np

from metrics import label_maps
from metrics.bootstrap import interval

_DESCRIPTION = """
The adjusted Rand index (Hubert & Arabie 1985) of each image's predicted segmentation, and its mean over the images: 1
for equal segmentations whatever the labels, 0 in expectation for a random one, at least -0.5. Over all pixels, and over
the foreground: the pixels whose true label is not 0 (the convention of the object-centric literature). The value of an
image is that of sklearn.metrics.adjusted_rand_score. Images are never pooled.

Edge cases: where truth and prediction both have one segment, or both one per pixel, the index is 1; where only one of
them has a single segment it is 0. Over the foreground of an image without any it is not defined: such an image does not
enter the foreground's mean.
"""

_KWARGS_DESCRIPTION = (
    label_maps.ARGUMENTS
    + """
Returns:
    adjusted_rand_index, foreground_adjusted_rand_index (`float`; the second is None where no image has foreground);
    each with _interval (`list` of two `float`), the 95 % percentile bootstrap interval over the images;
    num_images, num_foreground_images (`int`): how many images the two are means of;
    with return_samples also samples: {name (`list` of `float`, None where not defined)}.

Example:
    >>> metrics.load("adjusted_rand_index").compute(predictions=[[[5, 5], [2, 2]]], references=[[[0, 0], [1, 1]]])
    {'adjusted_rand_index': 1.0, 'foreground_adjusted_rand_index': 1.0, ...}
"""
)

_CITATION = """
@article{hubert1985comparing,
  title={Comparing partitions},
  author={Hubert, Lawrence and Arabie, Phipps},
  journal={Journal of Classification},
  volume={2}, pages={193--218}, year={1985}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AdjustedRandIndex(label_maps.LabelMapMetric):
    title = "the adjusted Rand index"

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(self.FEATURES),
            reference_urls=[
                "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.adjusted_rand_score.html"
            ],
        )

    def _from_tables(self, tables, resamples=2000, seed=0, return_samples=False):
        values = _adjusted_rand_index(tables)
        foreground = np.delete(tables, label_maps.BACKGROUND, axis=1)
        defined = foreground.sum(axis=(1, 2)) > 0
        foreground_values = _adjusted_rand_index(foreground)
        some = foreground_values[defined]
        result = {
            "adjusted_rand_index": float(values.mean()),
            "adjusted_rand_index_interval": interval(values, resamples=resamples, seed=seed),
            "foreground_adjusted_rand_index": float(some.mean()) if len(some) else None,
            "foreground_adjusted_rand_index_interval": (
                interval(some, resamples=resamples, seed=seed) if len(some) else None
            ),
            "num_images": len(tables),
            "num_foreground_images": int(defined.sum()),
        }
        if return_samples:
            samples = [v if d else None for v, d in zip(foreground_values.tolist(), defined, strict=True)]
            result["samples"] = {"adjusted_rand_index": values.tolist(), "foreground_adjusted_rand_index": samples}
        return result


def _adjusted_rand_index(tables: np.ndarray) -> np.ndarray:
    """Index of each table, [B, T, P] -> [B], from the pairs of pixels that are together in both, in one, in none."""
    counts = tables.astype(np.float64)  # squares of counts are exact up to 9e7 pixels
    pixels = counts.sum(axis=(1, 2))
    both = (counts**2).sum(axis=(1, 2))
    true = (counts.sum(axis=2) ** 2).sum(axis=1)
    predicted = (counts.sum(axis=1) ** 2).sum(axis=1)
    together = both - pixels
    only_true, only_predicted = true - both, predicted - both
    apart = pixels**2 - true - predicted + both
    numerator = 2 * (together * apart - only_true * only_predicted)
    denominator = (together + only_true) * (only_true + apart) + (together + only_predicted) * (only_predicted + apart)
    equal = (only_true == 0) & (only_predicted == 0)
    return np.where(equal, 1.0, numerator / np.where(equal, 1.0, denominator))
