"""Rows of token ids of which the end is scored: what a reviser and a policy learn from.

Prompt, label and text are tokenized apart, in training as in use, so no token ever lies across their borders. A
revision follows its label on a line of its own. Tokens of an answer are those that continue the prompt's, where the
tokenizer cuts the two together as it cuts them apart.

A label counts as much as a whole text: the loss of a row is ``label_weight`` times the negative log-likelihood of its
label (the sum over its tokens, by the chain rule) plus the mean over the tokens of its text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from remodeler.alignment.data.template import LABELS, NONE, Template
from remodeler.checkpoint.load import Checkpoint
from remodeler.data.windows import IGNORED, Windows, pad, padding_id, tokenizer_errors
from remodeler.errors import InputError
from remodeler.generation.sampling import apply_template, prompt_ids
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import Batch
from remodeler.training.losses import Loss, head_sum


@dataclass(frozen=True)
class TokenRow:
    """Token ids, the first that is scored, and how many of the scored ones are a label."""

    ids: tuple[int, ...]
    start: int
    label: int = 0


def end_token(checkpoint: Checkpoint) -> int:
    """The token that ends a text.

    Raises:
        InputError: for a tokenizer without one.
    """
    found = checkpoint.tokenizer.eos_token_id
    if found is None:
        raise InputError(f"the tokenizer of {checkpoint.name} has no token that ends a text: give another model")
    return int(found)


def text_ids(checkpoint: Checkpoint, text: str) -> list[int]:
    """Token ids of a text without special tokens."""
    with tokenizer_errors(checkpoint.tokenizer):
        return list(checkpoint.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# A reviser ------------------------------------------------------------------------------------------------------------


def context_ids(checkpoint: Checkpoint, template: Template, prompt: str, response: str) -> list[int]:
    """Token ids that a reviser reads."""
    return prompt_ids(checkpoint, template.fill(prompt, response))


def revision_ids(checkpoint: Checkpoint, text: str) -> list[int]:
    """Token ids of a revision, on a line of its own, and of its end."""
    return [*text_ids(checkpoint, f"\n{text}"), end_token(checkpoint)]


def label_ids(checkpoint: Checkpoint, template: Template, label: str) -> list[int]:
    """Token ids of a label."""
    return text_ids(checkpoint, template.markers[label])


def all_label_ids(checkpoint: Checkpoint, template: Template) -> list[tuple[int, ...]]:
    """Token ids of all labels, in their order.

    Raises:
        InputError: when one begins as another ends, so that their probabilities would not exclude each other.
    """
    found = [tuple(label_ids(checkpoint, template, label)) for label in LABELS]
    if any(one[: len(two)] == two for one in found for two in found if one is not two) or not all(found):
        raise InputError(f"{checkpoint.name} cuts the label markers so that one begins another: choose others")
    return found


def revision_row(
    checkpoint: Checkpoint, template: Template, prompt: str, response: str, better: str, label: str | None = None
) -> TokenRow:
    """A response and what it should become; a label NONE alone says that it is to be copied."""
    before = context_ids(checkpoint, template, prompt, response)
    mark = label_ids(checkpoint, template, label) if label else []
    after = [] if label == NONE else revision_ids(checkpoint, better)
    return TokenRow((*before, *mark, *after), len(before), len(mark))


# A policy -------------------------------------------------------------------------------------------------------------


def answer_row(checkpoint: Checkpoint, prompt: str, response: str, chat: bool = False) -> TokenRow:
    """A prompt and its answer."""
    before = apply_template(checkpoint, [prompt])[0] if chat else prompt_ids(checkpoint, prompt)
    whole = [] if chat else prompt_ids(checkpoint, prompt + response)
    together = whole[: len(before)] == before and len(whole) > len(before)
    after = whole[len(before) :] if together else text_ids(checkpoint, response)
    return TokenRow((*before, *after, end_token(checkpoint)), len(before))


# Windows --------------------------------------------------------------------------------------------------------------


def row_windows(checkpoint: Checkpoint, rows: Sequence[TokenRow]) -> Windows:
    """Rows as a model reads them: [rows, longest], scored from each start on.

    Raises:
        InputError: without rows, or when the tokenizer knows tokens that the model doesn't.
    """
    if not rows:
        raise InputError("there is nothing to learn from: give more data")
    if max(max(row.ids) for row in rows) >= vocabulary(checkpoint.model):
        raise InputError(
            f"the tokenizer of {checkpoint.name} knows tokens that the model doesn't: get the complete one"
        )
    ids, attention = pad([row.ids for row in rows], padding_id(checkpoint.tokenizer))
    targets = torch.full_like(ids, IGNORED)
    for place, row in enumerate(rows):
        targets[place, row.start - 1 : len(row.ids) - 1] = torch.tensor(row.ids[row.start :])
    return Windows(ids, targets, attention)


def token_weights(rows: Sequence[TokenRow], label_weight: float) -> Tensor:
    """Weight of each scored token: [rows, longest] float32; they sum to the number of scored tokens."""
    found = torch.zeros(len(rows), max(len(row.ids) for row in rows))
    for place, row in enumerate(rows):
        first, text = row.start - 1, len(row.ids) - row.start - row.label
        found[place, first : first + row.label] = label_weight
        found[place, first + row.label : first + row.label + text] = 1 / max(1, text)
    scored = sum(len(row.ids) - row.start for row in rows)
    return found * scored / len(rows)


def weighted_loss(counts: Tensor) -> Loss:
    """Cross-entropy with the weights of :func:`token_weights`."""

    def loss(anatomy: Anatomy, batch: Batch) -> Tensor:
        length = batch.inputs["input_ids"].shape[1]
        own = counts[list(batch.numbers)][:, :length].flatten().to(batch.places.device)[batch.places]

        def score(logits: Tensor, part: slice) -> Tensor:
            return (cross_entropy(logits, batch.targets[part], reduction="none") * own[part]).sum()

        return head_sum(anatomy, batch, score)

    return loss
