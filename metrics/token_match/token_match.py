"""Token match of predicted programs."""

import re

import datasets
import evaluate
import numpy as np

from metrics.bootstrap import interval
from metrics.program_texts import texts_of

_DESCRIPTION = """
How many tokens of predicted programs stand where the gold program has the same token. Tokens are operations and
arguments; brackets, commas, `|` and spaces separate them and do not count (they follow from the operations). With
m = the number of positions i at which prediction and gold program have the same i-th token, both in [0, 1]:

- `token_match` is the mean over the programs of m / max(length of the prediction, length of the gold program). What is
  missing and what is superfluous cost the same, each program counts once, 1 means the same tokens; never below the
  exact match.
- `token_accuracy` is the sum of m over the sum of the lengths of the predictions: the definition of Joey NMT (Kreutzer
  et al. 2019, `token_accuracy`: correct tokens / all tokens of the hypotheses, correct where the reference has the
  token at the same position). A prediction that breaks off early is not charged for what is missing.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `str`): predicted programs; any text has tokens.
    references (`list` of `str`): gold programs.
    resamples (`int`), seed (`int`): of the bootstrap, default 2000 and 0.
    return_samples (`bool`): also return the numbers of each sample. Default False.

Returns:
    token_match, token_accuracy (`float`), token_match_interval, token_accuracy_interval (`list` of two `float`): their
    95 % percentile bootstrap intervals over the programs; with return_samples also samples: {token_match (`list` of
    `float`), matching_tokens, prediction_tokens (`list` of `int`)}.

Example:
    >>> metrics.load("token_match").compute(predictions=["add(n0,n1)"], references=["add(n0,n2)|negate(#0)"])
    {'token_match': 0.4, 'token_accuracy': 0.666.., 'token_match_interval': [0.4, 0.4], ...}
"""

_CITATION = """
@inproceedings{kreutzer2019joey,
  title={{Joey NMT}: A Minimalist {NMT} Toolkit for Novices},
  author={Kreutzer, Julia and Bastings, Jasmijn and Riezler, Stefan},
  booktitle={Conference on Empirical Methods in Natural Language Processing: System Demonstrations},
  pages={109--114}, year={2019}
}
"""

_TOKEN = re.compile(r"[^\s(),|]+")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TokenMatch(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://aclanthology.org/D19-3019"],
        )

    def _compute(self, predictions, references, resamples=2000, seed=0, return_samples=False):
        predictions = texts_of(predictions)
        if not len(references):
            raise ValueError("token match of no samples is not defined: give at least one")
        pairs = [(_TOKEN.findall(a), _TOKEN.findall(b)) for a, b in zip(predictions, references, strict=True)]
        matching = [sum(x == y for x, y in zip(a, b, strict=False)) for a, b in pairs]
        shares = [m / max(len(a), len(b)) if a or b else 1.0 for m, (a, b) in zip(matching, pairs, strict=True)]
        lengths = [len(a) for a, _ in pairs]
        result = {
            "token_match": float(np.mean(shares)),
            "token_accuracy": sum(matching) / max(sum(lengths), 1),
            "token_match_interval": interval(shares, resamples=resamples, seed=seed),
            "token_accuracy_interval": interval(matching, lengths, resamples=resamples, seed=seed),
        }
        if return_samples:
            samples = {"token_match": shares, "matching_tokens": matching, "prediction_tokens": lengths}
            result["samples"] = samples
        return result
