"""Execution accuracy of predicted programs."""

import datasets
import evaluate
import numpy as np

from metrics.citations import MATHQA
from metrics.program_texts import texts_of
from metrics.wilson import share_interval
from models.programs import is_correct, try_execute

_DESCRIPTION = """
The share of predicted programs whose value for the problem, as the course's checker computes it, is within 2 % of the
answer: |value - answer| <= 0.02 |answer|; in [0, 1]. A program that does not parse, has no value, or has one that is
complex, infinite or not a number, is wrong.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`): predicted programs.
    problems (`list` of `str`): texts of the problems, the source of the numbers n0, n1, ….
    answers (`list` of `float`): right answers.
    references (`list` of `str`, optional): gold programs, as a check: where the gold program gives the answer, a
        prediction equal to it (after one trailing `|` is dropped on either side) has to be right too. AssertionError
        otherwise, since the accuracy could then fall below exact match.
    semantics (`str`): "checker" (default), or "exact" for correct mathematics.
    return_samples (`bool`): also return the outcome of each sample. Default False.

Returns:
    execution_accuracy (`float`), execution_accuracy_interval (`list` of two `float`): its 95 % Wilson
    interval; with references also reference_execution_accuracy (`float`), that of the gold programs; with
    return_samples also samples: {execution_accuracy (`list` of `bool`)}.

Example:
    >>> metrics.load("execution_accuracy").compute(
    ...     predictions=["add(n1,n0)", "add(n0"], problems=["2 and 3", "2 and 3"], answers=[5, 5]
    ... )
    {'execution_accuracy': 0.5, 'execution_accuracy_interval': [0.09453120573423074, 0.9054687942657693]}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ExecutionAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=MATHQA,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "problems": datasets.Value("string"),
                    "answers": datasets.Value("float64"),
                }
            ),
            reference_urls=["https://aclanthology.org/N19-1245"],
        )

    def compute(self, *, predictions=None, references=None, **options):
        """The base class drops `references` without a word where they are not among the features: pass them on."""
        return super().compute(predictions=predictions, programs=references, **options)

    def _compute(
        self,
        predictions,
        problems,
        answers,
        programs=None,
        semantics="checker",
        return_samples=False,
    ):
        if not len(predictions):
            raise ValueError("execution accuracy of no samples is not defined: give at least one")
        predictions = texts_of(predictions)
        right = _right(predictions, problems, answers, semantics)
        result = {
            "execution_accuracy": float(np.mean(right)),
            "execution_accuracy_interval": share_interval(right),
        }
        if programs is not None:
            if len(programs) != len(predictions):
                raise ValueError(f"{len(predictions)} predictions need as many references, got {len(programs)}")
            gold_right = _right(programs, problems, answers, semantics)
            _assert_consistent(predictions, programs, right, gold_right)
            result["reference_execution_accuracy"] = float(np.mean(gold_right))
        if return_samples:
            result["samples"] = {"execution_accuracy": right}
        return result


def _right(programs, problems, answers, semantics):
    rows = zip(programs, problems, answers, strict=True)
    return [is_correct(try_execute(program, problem, semantics), answer) for program, problem, answer in rows]


def _assert_consistent(predictions, programs, right, gold_right):
    """A prediction that is the gold program is right wherever the gold program is."""
    for index, (prediction, program) in enumerate(zip(predictions, programs, strict=True)):
        if prediction.removesuffix("|") == program.removesuffix("|") and gold_right[index] and not right[index]:
            raise AssertionError(
                f"sample {index}: the prediction {prediction!r} is the gold program, which gives the answer, yet it is "
                "counted wrong; execution accuracy below exact match is a contradiction"
            )
