"""The tagger: any Hugging Face encoder, auxiliary information, and a linear layer or a CRF.

YNU-HPCC at SemEval-2021 task 5 (Chen, Wang, Zhang; 2021.semeval-1.112). The head works on the pieces alone, gathered
from wherever special tokens and padding leave them, so that padding on either side is the same to it.

Deviations: the paper's code has no CRF, its abstract has one. The summary of a text is the encoder's own where it has
a pooler; elsewhere (XLNet, DistilBERT) a layer and tanh over what the last layer says of the classification token, as
XLNet's SequenceSummary does, wherever that token stands; of a tokenizer without one, over the mean of all tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.auditing.tagger.auxiliary import AUXILIARIES, Inputs
from remodeler.auditing.tagger.crf import Chain, log_likelihood, log_marginals, viterbi
from remodeler.auditing.tagger.labels import SCHEMES, Window
from remodeler.auditing.tagger.losses import TAG_LOSSES
from remodeler.errors import InputError

OUTPUTS = ("linear", "crf")


@dataclass(frozen=True)
class Head:
    """What stands on the encoder."""

    auxiliary: str = "none"
    output: str = "linear"
    scheme: str = "io"
    last_layers: int = 4
    """Of ``last-k``."""
    dropout: float = 0.1
    """Before the classifier."""

    def __post_init__(self) -> None:
        for name, known in (("auxiliary", tuple(AUXILIARIES)), ("output", OUTPUTS), ("scheme", tuple(SCHEMES))):
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)!r} is not known: choose {', '.join(known)}")
        if self.last_layers < 1:
            raise InputError(f"--last-layers {self.last_layers} was given, at least 1 was expected: raise it")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout {self.dropout:g} was given, 0 to below 1 was expected: choose such a share")


@dataclass(frozen=True)
class Reads:
    """Some windows as an encoder reads them, on its device."""

    inputs: dict[str, Tensor]
    """[batch, length] each: ``input_ids``, ``attention_mask`` and, where the tokenizer has them, ``token_type_ids``."""
    places: Tensor
    """[batch, pieces] int64: where the pieces are, 0 at padding."""
    mask: Tensor
    """[batch, pieces] bool: which are real; padded on the right."""


def collated(windows: Sequence[Window], tokenizer: Any, device: torch.device) -> Reads:
    """Windows as one batch, padded on the side that the tokenizer pads."""
    length = max(len(each.ids) for each in windows)
    left = tokenizer.padding_side == "left"
    fills = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    rows: dict[str, list[list[int]]] = {name: [] for name in fills}
    count = max(len(each.places) for each in windows)
    places = torch.zeros(len(windows), count, dtype=torch.long)
    mask = torch.zeros(len(windows), count, dtype=torch.bool)
    for number, window in enumerate(windows):
        missing = length - len(window.ids)
        values = {"input_ids": window.ids, "attention_mask": (1,) * len(window.ids), "token_type_ids": window.kinds}
        for name, row in values.items():
            padding = [tokenizer.pad_token_type_id if name == "token_type_ids" else fills[name]] * missing
            rows[name].append([*padding, *row] if left else [*row, *padding])
        places[number, : len(window.places)] = torch.from_numpy(window.places) + missing * left
        mask[number, : len(window.places)] = True
    if not windows[0].kinds:
        del rows["token_type_ids"]
    inputs = {name: torch.tensor(values, device=device) for name, values in rows.items()}
    return Reads(inputs, places.to(device), mask.to(device))


class Tagger(nn.Module):
    """An encoder and its head."""

    def __init__(self, encoder: Any, head: Head, cls_id: int | None) -> None:
        super().__init__()
        row, hidden, tags = AUXILIARIES[head.auxiliary], encoder.config.hidden_size, SCHEMES[head.scheme]
        self.encoder, self.head, self.cls_id = encoder, head, cls_id
        self.scorer = nn.Linear(hidden, 1) if row.attention else None
        pooled = getattr(encoder, "pooler", None) is not None
        self.summariser = nn.Linear(hidden, hidden) if row.summary and not pooled else None
        self.dropout = nn.Dropout(head.dropout)
        self.classifier = nn.Linear(hidden * row.width(head.last_layers), len(tags))
        self.chain = Chain(tags) if head.output == "crf" else None
        for layer in (self.scorer, self.summariser, self.classifier):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, reads: Reads) -> Tensor:
        """[batch, pieces, tags] float32: what the classifier says of every piece."""
        row = AUXILIARIES[self.head.auxiliary]
        said = self.encoder(**reads.inputs, output_hidden_states=row.layers)
        states = said.hidden_states if row.layers else (said.last_hidden_state,)
        where = reads.places[..., None]
        pieces = [state.gather(1, where.expand(-1, -1, state.shape[-1])) for state in states]
        summary = self._summary(said, reads) if row.summary else None
        features = row.features(Inputs(pieces, summary, self.scorer, self.head.last_layers))
        emissions: Tensor = self.classifier(self.dropout(features)).float()
        return emissions

    def _summary(self, said: Any, reads: Reads) -> Tensor:
        """[batch, hidden]: what stands for the whole text."""
        if self.summariser is None:
            pooled: Tensor = said.pooler_output
            return pooled
        last, real = said.last_hidden_state, reads.inputs["attention_mask"]
        if self.cls_id is not None:
            real = real * (reads.inputs["input_ids"] == self.cls_id)
        weights = (real / real.sum(1, keepdim=True)).to(last.dtype)
        return torch.tanh(self.summariser((weights[:, None] @ last)[:, 0]))

    def log_beliefs(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[batch, pieces, tags]: the log of how likely each tag is."""
        if self.chain is not None:
            return log_marginals(self.chain, emissions, mask)
        return emissions.log_softmax(-1)

    def best(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[batch, pieces] int64: the tags that are best together."""
        if self.chain is not None:
            return viterbi(self.chain, emissions, mask)
        return emissions.argmax(-1)

    def loss(self, reads: Reads, wanted: Tensor, name: str, soft: bool) -> Tensor:
        """A scalar: how far it is from the wanted tags [batch, pieces, tags].

        Cross-entropy of a CRF with gold tags is that of whole rows, a piece; all else goes by the beliefs in pieces.
        """
        emissions = self(reads)
        if self.chain is not None and name == "cross-entropy" and not soft:
            tags = wanted.argmax(-1)
            return -log_likelihood(self.chain, emissions, tags, reads.mask).sum() / reads.mask.sum()
        return TAG_LOSSES[name](self.log_beliefs(emissions, reads.mask), wanted, reads.mask)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """What is not the encoder's, by name."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("encoder.")}
