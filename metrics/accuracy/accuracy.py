"""Accuracy of class predictions."""

import datasets
import evaluate
from sklearn.metrics import accuracy_score

from metrics.citations import SCIKIT_LEARN

_DESCRIPTION = """
The share of samples whose predicted class is the true one, in [0, 1].
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted classes.
    references (`list` of `int`): true classes.
    normalize (`bool`): the share if True (default), else the number of right predictions.

Returns:
    accuracy (`float`)

Example:
    >>> metrics.load("accuracy").compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 1])
    {'accuracy': 0.75}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Accuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=SCIKIT_LEARN,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.accuracy_score.html"],
        )

    def _compute(self, predictions, references, normalize=True):
        if not len(references):
            raise ValueError("accuracy of no samples is not defined: give at least one")
        return {"accuracy": float(accuracy_score(references, predictions, normalize=normalize))}
