"""Which of transformers' Auto classes loads a model, and which pipeline runs it."""

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

from remodeler.model.families import Family

AUTO: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
PIPELINES = {"causal": "text-generation", "masked": "fill-mask", "seq2seq": "text2text-generation"}


def auto_class(row: Family) -> Any:
    """The Auto class that loads a model of a family."""
    return AutoModelForImageTextToText if row.wrapper else AUTO[row.task]


def pipeline(row: Family) -> str:
    """The name of the pipeline that runs it, which is its tag on the hub too."""
    return "image-text-to-text" if row.wrapper else PIPELINES[row.task]
