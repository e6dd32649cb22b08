"""Exact match of predicted programs."""

import datasets
import evaluate
import numpy as np

from metrics.citations import MATHQA
from metrics.program_texts import texts_of
from metrics.wilson import share_interval

_DESCRIPTION = """
The share of predicted programs that equal the gold one as text, after one trailing `|` is dropped on either side; in
[0, 1]. A program that computes the same in other words does not match.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`): predicted programs.
    references (`list` of `str`): gold programs.
    return_samples (`bool`): also return the outcome of each sample. Default False.

Returns:
    exact_match (`float`), exact_match_interval (`list` of two `float`): its 95 % Wilson interval; with
    return_samples also samples: {exact_match (`list` of `bool`)}.

Example:
    >>> metrics.load("exact_match").compute(predictions=["add(n0,n1)"] * 2, references=["add(n0,n1)|", "add(n1,n0)"])
    {'exact_match': 0.5, 'exact_match_interval': [0.09453120573423074, 0.9054687942657693]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ExactMatch(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=MATHQA,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://aclanthology.org/N19-1245"],
        )

    def _compute(self, predictions, references, return_samples=False):
        predictions = texts_of(predictions)
        if not len(references):
            raise ValueError("exact match of no samples is not defined: give at least one")
        same = [a.removesuffix("|") == b.removesuffix("|") for a, b in zip(predictions, references, strict=True)]
        result = {
            "exact_match": float(np.mean(same)),
            "exact_match_interval": share_interval(same),
        }
        if return_samples:
            result["samples"] = {"exact_match": same}
        return result
