"""Expected calibration error of predicted probabilities."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Expected calibration error (Guo et al. 2017, equation 3). Samples are binned by confidence, the probability of the
predicted class, into `num_bins` bins of equal width ((m-1)/M, m/M]; the error is the mean over the samples of
|accuracy - mean confidence| of their bin. In [0, 1]; 0 is perfectly calibrated.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `list` of `float`): class probabilities, [samples, classes], each row summing to 1.
    references (`list` of `int`): true classes.
    num_bins (`int`): bins, default 15.
    return_bins (`bool`): also return the bins, for a reliability diagram. Default False.

Returns:
    calibration_error (`float`); with return_bins also bin_confidence, bin_accuracy (`list` of `float`, 0 in an empty
    bin) and bin_count (`list` of `int`).

Example:
    >>> metrics.load("calibration_error").compute(predictions=[[0.8, 0.2], [0.2, 0.8]], references=[0, 0])
    {'calibration_error': 0.3}
"""

_CITATION = """
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CalibrationError(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://proceedings.mlr.press/v70/guo17a.html"],
        )

    def _compute(self, predictions, references, num_bins=15, return_bins=False):
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, not {num_bins}")
        if not len(references):
            raise ValueError("the calibration error of no samples is not defined: give at least one")
        probabilities, labels = np.asarray(predictions), np.asarray(references)  # [N, K], [N]
        sums = probabilities.sum(axis=1)
        # Half-precision outputs sum to 1 within a per cent.
        if not (np.all(probabilities >= 0) and np.all(np.abs(sums - 1) < 0.02)):
            raise ValueError("predictions must be probabilities, rows in [0, 1] that sum to 1: apply softmax to logits")
        confidence = np.minimum(probabilities.max(axis=1), 1.0)
        right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
        edges = np.linspace(0.0, 1.0, num_bins + 1)
        bins = np.searchsorted(edges, confidence, side="left") - 1  # (edge, edge]
        count = np.bincount(bins, minlength=num_bins)
        confidence_sum = np.bincount(bins, weights=confidence, minlength=num_bins)
        right_sum = np.bincount(bins, weights=right, minlength=num_bins)
        result = {"calibration_error": float(np.abs(right_sum - confidence_sum).sum() / len(labels))}
        if return_bins:
            filled = np.maximum(count, 1)
            result["bin_confidence"] = (confidence_sum / filled).tolist()
            result["bin_accuracy"] = (right_sum / filled).tolist()
            result["bin_count"] = count.tolist()
        return result
