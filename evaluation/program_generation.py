"""A run's program generator: word problems in; programs, their log-probabilities and attention weights out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from models import Text2MathForProgramGeneration, Text2MathTokenizer
from models.modeling_text2math import IGNORED

from .loading import device_of, exact, first_line, load_model
from .runs import Run, RunError, digest, weights_of

logger = logging.getLogger(__name__)

BATCH_SIZE = 64
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Hypothesis(NamedTuple):
    """A generated program: its text (tokens separated by spaces where they are no program), the natural logarithm of
    its probability, and whether it is a program."""

    program: str
    log_probability: float
    valid: bool


class Attention(NamedTuple):
    """With which weights [T, S] the tokens of a program (`target`, T of them, the end included) were predicted from
    those of its problem (`source`, S); `numbers` are the positions in the source of n0, n1, …."""

    source: list[str]
    target: list[str]
    weights: np.ndarray
    numbers: list[int]


class Generator:
    """A run's model and tokenizer on a device, in float32 and evaluation mode."""

    def __init__(self, run: Run, device: str = "auto", batch_size: int | None = None) -> None:
        self.device = device_of(device)
        self.batch_size = batch_size or BATCH_SIZE
        self.model = load_model(run, Text2MathForProgramGeneration).to(self.device)
        try:
            self.tokenizer = Text2MathTokenizer.from_pretrained(run.folder)
        except (OSError, ValueError) as error:
            raise RunError(f"{run.folder}: no tokenizer ({first_line(error)}). Train the run again.") from None
        bert = self.model.config.encoder == "bert"
        self.longest = self.model.config.to_bert_config().max_position_embeddings if bert else None

    def generate(
        self, problems: Sequence[str], num_beams: int = 10, constrained: bool = False, count: int = 1
    ) -> list[list[Hypothesis]]:
        """For each problem the `count` best programs of the search, best first; fewer where there are fewer. Of a
        problem that is longer than a BERT reads the end is cut off, and a warning says so."""
        if self.longest and (cut := self.tokenizer.too_long(problems, self.longest)):
            first = f"the first, of {cut[0][1]}, begins {problems[cut[0][0]][:60]!r}"
            logger.warning("%d problems are cut at %d wordpieces: %s", len(cut), self.longest, first)
        found: list[list[Hypothesis]] = [[] for _ in problems]
        for rows in self._batches(problems):
            with exact():
                output = self.model.generate(
                    **self._encode([problems[row] for row in rows]),
                    num_beams=num_beams,
                    constrained=constrained,
                    num_return_sequences=count,
                    return_dict_in_generate=True,
                )
            columns = (output.sequences, output.log_probabilities, output.lengths)
            for place, (ids, score, length) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
                if length:
                    program, valid = self.tokenizer.decode_program(ids, return_valid=True)
                    found[rows[place // count]].append(Hypothesis(program, score, valid))
        return found

    @torch.inference_mode()
    def log_probabilities(self, problems: Sequence[str], programs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The natural logarithm of each program's probability given its problem, and its number of tokens, the end
        included: float64 [N], int64 [N]."""
        sums, tokens = np.zeros(len(problems)), np.zeros(len(problems), np.int64)
        for rows in self._batches(problems):
            labels = self._labels([programs[row] for row in rows])  # [B, T]
            with exact():
                logits = self.model(**self._encode([problems[row] for row in rows]), labels=labels).logits
            nats = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
            sums[rows] = -nats.double().sum(1).cpu().numpy()
            tokens[rows] = (labels != IGNORED).sum(1).cpu().numpy()
        return sums, tokens

    @torch.inference_mode()
    def attention(self, problem: str, program: str) -> Attention | None:
        """The weights of one program on its problem; None for a model without attention."""
        labels = self._labels([program])
        inputs = self._encode([problem])
        with exact():
            weights = self.model(**inputs, labels=labels, output_attentions=True).cross_attentions
        if weights is None:
            return None
        names = self.tokenizer.program_tokens
        ids = inputs["input_ids"][0].tolist()
        numbers = [ids.index(token) for token in self.model.config.number_token_ids if token in ids]
        source = self.tokenizer.surface_tokens(problem)[: len(ids)]
        return Attention(source, [names[i] for i in labels[0].tolist()], weights[0].float().cpu().numpy(), numbers)

    def _batches(self, problems: Sequence[str]) -> list[list[int]]:
        """Positions in groups of similar length, the longest first."""
        order = sorted(range(len(problems)), key=lambda i: (-len(problems[i].split()), i))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _encode(self, problems: list[str]) -> dict[str, Any]:
        limits = {"truncation": True, "max_length": self.longest} if self.longest else {}
        return dict(self.tokenizer(problems, padding=True, return_tensors="pt", **limits).to(self.device))

    def _labels(self, programs: list[str]) -> torch.Tensor:
        """Target ids [B, T] with the end and without the begin token, padded with -100."""
        rows = [torch.tensor(self.tokenizer.encode_program(program)[1:]) for program in programs]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED).to(self.device)


def model_files(run: Run) -> list[Path]:
    """The files of a run that decide what its model generates."""
    names = ["config.json", *TOKENIZER_FILES]
    return [*weights_of(run.folder), *(run.folder / name for name in names if (run.folder / name).is_file())]


def model_digest(run: Run, code: str) -> str:
    """sha256 of a run's model; `code` is the digest of its family's `model_code`."""
    return digest(model_files(run), code)
