"""F1 of class predictions, averaged over classes."""

import datasets
import evaluate
from sklearn.metrics import f1_score

from metrics.citations import SCIKIT_LEARN

_DESCRIPTION = """
F1 = 2 precision recall / (precision + recall), in [0, 1]. `micro` counts over all classes together, and equals the
accuracy where every sample has one class; `macro` is the mean over the classes; `weighted` weighs them by support.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted classes.
    references (`list` of `int`): true classes.
    average (`str`): "macro" (default), "micro" or "weighted".
    num_labels (`int`, optional): average over the classes 0 .. num_labels - 1; a class that is neither predicted nor
        present then counts as 0. Default: the classes that occur in predictions or references.

Returns:
    f1 (`float`)

Example:
    >>> metrics.load("f1").compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, 1], average="micro")
    {'f1': 0.75}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class F1(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=SCIKIT_LEARN,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html"],
        )

    def _compute(self, predictions, references, average="macro", num_labels=None):
        if average not in ("macro", "micro", "weighted"):
            raise ValueError(f"average must be macro, micro or weighted, not {average!r}; per class: metric per_class")
        if not len(references):
            raise ValueError("f1 of no samples is not defined: give at least one")
        labels = None if num_labels is None else list(range(num_labels))
        value = f1_score(references, predictions, labels=labels, average=average, zero_division=0)
        return {"f1": float(value)}
