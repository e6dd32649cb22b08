"""What the metrics of programs take for a program."""

from collections.abc import Iterable


def texts_of(predictions: Iterable[str | None]) -> list[str]:
    """The predicted programs; a missing one (None) is the empty text, which is wrong everywhere."""
    return ["" if prediction is None else prediction for prediction in predictions]
