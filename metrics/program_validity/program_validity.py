"""Which share of predicted programs parses, and which executes."""

import datasets
import evaluate
import numpy as np

from metrics.citations import MATHQA
from metrics.program_texts import texts_of
from metrics.wilson import share_interval
from models.programs import ProgramError, execute, parse

_DESCRIPTION = """
`parses` is the share of predicted texts that are programs (known operations with the right number of arguments, results
of earlier steps only); `executes` the share that moreover has a finite real value for its problem, right or wrong, as
the course's checker computes it. Both in [0, 1], executes <= parses.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`): predicted programs.
    problems (`list` of `str`): texts of the problems, the source of the numbers n0, n1, ….
    semantics (`str`): "checker" (default), or "exact" for correct mathematics.
    return_samples (`bool`): also return the outcome of each sample. Default False.

Returns:
    parses, executes (`float`), parses_interval, executes_interval (`list` of two `float`): their 95 % Wilson
    intervals; with return_samples also samples: {parses, executes (`list` of `bool`), reason (`list` of `str`, empty
    where it executes)}.

Example:
    >>> module = metrics.load("program_validity")
    >>> found = module.compute(predictions=["add(n0,n1)", "add(n0,n7)"], problems=["2 and 3"] * 2)
    >>> found["parses"], found["executes"]
    (1.0, 0.5)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ProgramValidity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=MATHQA,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "problems": datasets.Value("string")}),
            reference_urls=["https://aclanthology.org/N19-1245"],
        )

    def _compute(self, predictions, problems, semantics="checker", return_samples=False):
        predictions = texts_of(predictions)
        if not len(predictions):
            raise ValueError("the validity of no samples is not defined: give at least one")
        samples = {"parses": [], "executes": [], "reason": []}
        for prediction, problem in zip(predictions, problems, strict=True):
            parses, reason = False, ""
            try:
                steps = parse(prediction)
                parses = True
                execute(steps, problem, semantics)
            except ProgramError as error:
                reason = str(error)
            samples["parses"].append(parses)
            samples["executes"].append(not reason)
            samples["reason"].append(reason)
        result = {name: float(np.mean(samples[name])) for name in ("parses", "executes")}
        for name in ("parses", "executes"):
            result[f"{name}_interval"] = share_interval(samples[name])
        if return_samples:
            result["samples"] = samples
        return result
