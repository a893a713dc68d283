"""Match predictions with posts by id, and check that both are of the same text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from remodeler.auditing.formats.predictions import Prediction
from remodeler.auditing.formats.span_lists import refuse_outside
from remodeler.auditing.spans import Span
from remodeler.data.lines import short
from remodeler.errors import InputError, quantity


def match_predictions(path: Path, predicted: Sequence[Prediction], gold: Sequence[Prediction]) -> list[list[Span]]:
    """Predicted spans of each gold post, by id; refuses other ids than those of the gold, as the organisers do."""
    ours, theirs = {row.id: row for row in predicted}, [row.id for row in gold]
    if ours.keys() != set(theirs):
        odd = sorted(ours.keys() ^ set(theirs))[0]
        fault = (
            f"{path} has {quantity(len(ours), 'post')}, the gold file {len(theirs)} (id {odd} is in one of them only)"
        )
        raise InputError(f"{fault}: predict exactly the posts of the gold file")
    for row in gold:
        refuse_other_text(str(path), ours[row.id], row.text)
    return [list(ours[number].spans) for number in theirs]


def refuse_other_text(where: str, row: Prediction, text: str | None) -> None:
    """Raise where a prediction is of another text than expected; either may be unknown."""
    if row.text is not None and text is not None and row.text != text:
        fault = f"{where} has {short(row.text)} with the id {row.id}, where {short(text)} was expected"
        raise InputError(f"{fault}: give predictions of the same texts")


def with_text(source: Path, row: Prediction, text: str) -> Prediction:
    """Add the text to a prediction, which must be of that text.

    Raises:
        InputError: for another text, or where spans are outside of it.
    """
    refuse_other_text(str(source), row, text)
    refuse_outside(f"the post with the id {row.id} of {source}", row.spans, len(text))
    return replace(row, text=text)
