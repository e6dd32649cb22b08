"""Mean best overlap of segmentations."""

import datasets
import evaluate
import numpy as np

from metrics import label_maps
from metrics.bootstrap import interval

_DESCRIPTION = """
Mean best overlap (Pont-Tuset et al. 2017, as DINOSAUR and SlotDiffusion use it): for each object, the largest IoU that
any predicted segment has with it (one segment may serve several objects); the image's value is the mean over its
objects, then the mean over the images. In [0, 1]. The background (true label 0) is no object; an image without an
object does not enter the mean.
"""

_KWARGS_DESCRIPTION = (
    label_maps.ARGUMENTS
    + """
Returns:
    mean_best_overlap (`float`, None where no image has an object), mean_best_overlap_interval (`list` of two `float`),
    its 95 % percentile bootstrap interval over the images; num_foreground_images (`int`): how many images it is a mean
    of; with return_samples also samples: {mean_best_overlap (`list` of `float`, None where not defined)}.

Example:
    >>> metrics.load("mean_best_overlap").compute(predictions=[[[5, 5], [2, 5]]], references=[[[0, 0], [1, 1]]])
    {'mean_best_overlap': 0.5, ...}
"""
)

_CITATION = """
@article{ponttuset2017multiscale,
  title={Multiscale Combinatorial Grouping for Image Segmentation and Object Proposal Generation},
  author={Pont-Tuset, Jordi and Arbel{\\'a}ez, Pablo and Barron, Jonathan T. and Marques, Ferran and Malik, Jitendra},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={39}, number={1}, pages={128--140}, year={2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeanBestOverlap(label_maps.LabelMapMetric):
    title = "the mean best overlap"

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(self.FEATURES),
            reference_urls=["https://arxiv.org/abs/1503.00848", "https://arxiv.org/abs/2209.14860"],
        )

    def _from_tables(self, tables, resamples=2000, seed=0, return_samples=False):
        best = label_maps.intersection_over_union(tables).max(axis=2)  # [B, T]
        objects = tables.sum(axis=2) > 0
        objects[:, label_maps.BACKGROUND] = False
        number = objects.sum(axis=1)
        defined = number > 0
        values = (best * objects).sum(axis=1) / np.maximum(number, 1)
        some = values[defined]
        result = {
            "mean_best_overlap": float(some.mean()) if len(some) else None,
            "mean_best_overlap_interval": interval(some, resamples=resamples, seed=seed) if len(some) else None,
            "num_foreground_images": len(some),
        }
        if return_samples:
            samples = [v if d else None for v, d in zip(values.tolist(), defined, strict=True)]
            result["samples"] = {"mean_best_overlap": samples}
        return result
