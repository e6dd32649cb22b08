"""Which class is taken for which."""

import datasets
import evaluate
from sklearn.metrics import confusion_matrix

from metrics.citations import SCIKIT_LEARN

_DESCRIPTION = """
The confusion matrix: entry [i][j] counts the samples of true class i that were predicted as class j.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `int`): predicted classes.
    references (`list` of `int`): true classes.
    num_labels (`int`, optional): the matrix is num_labels x num_labels. Default: up to the largest class that occurs.
    normalize (`str`, optional): "true" divides by the row, "pred" by the column, "all" by the number of samples.

Returns:
    confusion_matrix (`list` of `list`): counts as `int`, or shares as `float` where normalised.

Example:
    >>> metrics.load("confusion_matrix").compute(predictions=[0, 0, 1], references=[0, 1, 1])
    {'confusion_matrix': [[1, 0], [1, 1]]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ConfusionMatrix(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=SCIKIT_LEARN,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
            reference_urls=["https://scikit-learn.org/stable/modules/generated/sklearn.metrics.confusion_matrix.html"],
        )

    def _compute(self, predictions, references, num_labels=None, normalize=None):
        if not len(references):
            raise ValueError("a confusion matrix of no samples is not defined: give at least one")
        largest = int(max(predictions.max(), references.max()))
        if num_labels is None:
            num_labels = largest + 1
        if largest >= num_labels:
            raise ValueError(f"class {largest} occurs, but num_labels is {num_labels}")
        matrix = confusion_matrix(references, predictions, labels=list(range(num_labels)), normalize=normalize)
        return {"confusion_matrix": matrix.tolist()}
