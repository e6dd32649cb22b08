"""Precision, recall, F1 and support of every class."""

import datasets
import evaluate
from sklearn.metrics import precision_recall_fscore_support

from metrics.citations import SCIKIT_LEARN

_DESCRIPTION = """
For every class: precision (which share of its predictions is right), recall (which share of its samples is found),
their harmonic mean F1, and support (its number of samples). A quotient with denominator 0 counts as 0.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted classes.
    references (`list` of `int`): true classes.
    num_labels (`int`, optional): report the classes 0 .. num_labels - 1. Default: up to the largest class that occurs.

Returns:
    precision, recall, f1 (`list` of `float`), support (`list` of `int`): one entry per class, in class order.

Example:
    >>> metrics.load("per_class").compute(predictions=[0, 0, 1], references=[0, 1, 1])
    {'precision': [0.5, 1.0], 'recall': [1.0, 0.5], 'f1': [0.666.., 0.666..], 'support': [1, 2]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PerClass(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=SCIKIT_LEARN,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
            reference_urls=[
                "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.precision_recall_fscore_support.html"
            ],
        )

    def _compute(self, predictions, references, num_labels=None):
        if not len(references):
            raise ValueError("per_class of no samples is not defined: give at least one")
        largest = int(max(predictions.max(), references.max()))
        if num_labels is None:
            num_labels = largest + 1
        if largest >= num_labels:
            raise ValueError(f"class {largest} occurs, but num_labels is {num_labels}")
        precision, recall, f1, support = precision_recall_fscore_support(
            references, predictions, labels=list(range(num_labels)), zero_division=0
        )
        return {
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "f1": f1.tolist(),
            "support": support.tolist(),
        }
