"""What an export found: how far another runtime's logits are from torch's; and the words of a graph's card."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import ModelCardData

from remodeler.exporting.snippets import CODE, NAMES
from remodeler.reporting.card import known_as, page, warnings_of
from remodeler.reporting.card_text import code, fenced
from remodeler.reporting.figures import Values
from remodeler.reporting.results import Results, source
from remodeler.runs.records import Record


@dataclass(frozen=True, kw_only=True)
class ExportResults(Results):
    """Of ``remodel export``; each target has some of it, and what compares it only where a runtime was there."""

    layers: int | None = None
    """Of DeciLM's layout."""
    blocks: Values | None = None
    """Of a graph, by kind."""
    runtime: str | None = None
    difference: float | None = None
    """Largest difference of a logit, as a share of the largest one."""
    stepwise: float | None = None
    """The same between one pass and token by token, in llama.cpp alone."""
    agree: float | None = None
    """Share of positions with the same likeliest token."""
    texts: int | None = None
    """That both tokenizers cut the same way."""
    tokens: int | None = None
    """That were decoded greedily."""
    same: int | None = None
    """How many of them both choose."""
    runtimes: Sequence[Values] | None = None
    """Others that have read DeciLM's layout, and what they found."""
    bytes: int | None = None
    """Of a graph or a GGUF file."""
    warning: Values | None = None
    command: str = ""

    def check_sentence(self) -> str:
        """What the check of a graph found, in a sentence."""
        if self.runtime is None:
            return "It was not checked: no runtime was at hand, or nobody asked."
        return (
            f"In {self.runtime} its logits differ from torch's by {self.difference:.2g} of the largest, and "
            f"{self.same} of {self.tokens} tokens that torch decodes greedily are its own choice too."
        )

    def card(self, record: Record) -> str | None:
        """What a graph is, and how it is run; other targets have no card."""
        target = record.options["to"]
        if target not in NAMES:
            return None
        known, name = known_as(source(record)), NAMES[target]
        head = ModelCardData(base_model=known, pipeline_tag="text-generation", tags=[target, "remodeler"])
        story = [
            f"{code(known)} as one {name} graph in float32. It takes tokens, a mask, positions and "
            "the KV cache, and gives logits and the longer cache; an empty cache starts a text.",
            "",
            self.check_sentence(),
            *warnings_of(self.warning),
        ]
        return page(head, f"{known}, {name}", story, fenced(CODE[target].strip().split("\n"), "python"), self.command)
