"""Mean intersection over union of segmentations, predicted segments matched to true ones."""

import datasets
import evaluate
import numpy as np
from scipy.optimize import linear_sum_assignment

from metrics import label_maps
from metrics.bootstrap import interval

_DESCRIPTION = """
Mean intersection over union with Hungarian matching: in each image predicted segments are matched one to one to true
ones so that the sum of their IoU is largest; the image's value is the mean IoU over its true segments, 0 for one that
is left without a partner; then the mean over the images. In [0, 1]. With the background as one of the true segments,
and over the objects alone (true labels other than 0), as SlotDiffusion's mIoU and FG-mIoU; a label without a pixel is
no segment. An image without an object does not enter the mean over objects.
"""

_KWARGS_DESCRIPTION = (
    label_maps.ARGUMENTS
    + """
Returns:
    mean_iou, foreground_mean_iou (`float`; the second is None where no image has an object); each with _interval
    (`list` of two `float`), the 95 % percentile bootstrap interval over the images;
    num_images, num_foreground_images (`int`): how many images the two are means of;
    with return_samples also samples: {name (`list` of `float`, None where not defined)}.

Example:
    >>> metrics.load("mean_iou").compute(predictions=[[[5, 5], [2, 5]]], references=[[[0, 0], [1, 1]]])
    {'mean_iou': 0.583.., 'foreground_mean_iou': 0.5, ...}
"""
)

_CITATION = """
@inproceedings{wu2023slotdiffusion,
  title={{SlotDiffusion}: Object-Centric Generative Modeling with Diffusion Models},
  author={Wu, Ziyi and Hu, Jingyu and Lu, Wuyue and Gilitschenski, Igor and Garg, Animesh},
  booktitle={Advances in Neural Information Processing Systems},
  year={2023}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MeanIoU(label_maps.LabelMapMetric):
    title = "the mean IoU"

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(self.FEATURES),
            reference_urls=["https://arxiv.org/abs/2305.11281"],
        )

    def _from_tables(self, tables, resamples=2000, seed=0, return_samples=False):
        overlaps = label_maps.intersection_over_union(tables)
        present = tables.sum(axis=2) > 0  # [B, T]
        everything = [_matched_iou(o, p) for o, p in zip(overlaps, present, strict=True)]
        present[:, label_maps.BACKGROUND] = False
        objects = [_matched_iou(o, p) if p.any() else None for o, p in zip(overlaps, present, strict=True)]
        some = [value for value in objects if value is not None]
        result = {
            "mean_iou": float(np.mean(everything)),
            "mean_iou_interval": interval(everything, resamples=resamples, seed=seed),
            "foreground_mean_iou": float(np.mean(some)) if some else None,
            "foreground_mean_iou_interval": interval(some, resamples=resamples, seed=seed) if some else None,
            "num_images": len(tables),
            "num_foreground_images": len(some),
        }
        if return_samples:
            result["samples"] = {"mean_iou": everything, "foreground_mean_iou": objects}
        return result


def _matched_iou(overlaps: np.ndarray, present: np.ndarray) -> float:
    """Largest sum of IoU of a one-to-one matching, over the number of true segments; [T, P], [T]."""
    overlaps = overlaps[present]
    true, predicted = linear_sum_assignment(overlaps, maximize=True)
    return float(overlaps[true, predicted].sum() / len(overlaps))
