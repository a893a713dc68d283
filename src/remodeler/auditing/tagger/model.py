"""Tagger: any Hugging Face encoder, auxiliary features, and a linear layer or a CRF.

YNU-HPCC at SemEval-2021 task 5 (Chen, Wang, Zhang; 2021.semeval-1.112). The head reads the pieces only, gathered
from between special tokens and padding, so that padding on either side makes no difference.

Deviations: the paper's code has no CRF, its abstract has one. The summary of a text is the output of the
encoder's pooler; without one (XLNet, DistilBERT) a layer and tanh on the last hidden state of the classification token,
as XLNet's SequenceSummary, wherever that token is; without such a token, on the mean of all tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.auditing.tagger.auxiliary import AUXILIARIES, FeatureInputs
from remodeler.auditing.tagger.config import HeadConfig
from remodeler.auditing.tagger.crf import Chain, log_likelihood, log_marginals, viterbi
from remodeler.auditing.tagger.labels import SCHEMES, Window
from remodeler.auditing.tagger.losses import TAG_LOSSES


@dataclass(frozen=True)
class Batch:
    """Windows as encoder inputs, on its device."""

    inputs: dict[str, Tensor]
    """[batch, length] each: ``input_ids``, ``attention_mask`` and, where the tokenizer has them, ``token_type_ids``."""
    places: Tensor
    """[batch, pieces] int64 positions of the pieces, 0 at padding."""
    mask: Tensor
    """[batch, pieces] bool, False at padding, which is on the right."""


def collate(windows: Sequence[Window], tokenizer: Any, device: torch.device) -> Batch:
    """Collate windows into a batch, padded on the side that the tokenizer pads."""
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
    return Batch(inputs, places.to(device), mask.to(device))


class Tagger(nn.Module):
    """An encoder and its head."""

    def __init__(self, encoder: Any, head: HeadConfig, cls_id: int | None) -> None:
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

    def forward(self, batch: Batch) -> Tensor:
        """[batch, pieces, tags] float32 scores of the tags of every piece."""
        row = AUXILIARIES[self.head.auxiliary]
        output = self.encoder(**batch.inputs, output_hidden_states=row.layers)
        states = output.hidden_states if row.layers else (output.last_hidden_state,)
        where = batch.places[..., None]
        pieces = [state.gather(1, where.expand(-1, -1, state.shape[-1])) for state in states]
        summary = self._summary(output, batch) if row.summary else None
        features = row.features(FeatureInputs(pieces, summary, self.scorer, self.head.last_layers))
        emissions: Tensor = self.classifier(self.dropout(features)).float()
        return emissions

    def _summary(self, output: Any, batch: Batch) -> Tensor:
        """[batch, hidden] summary of the whole text."""
        if self.summariser is None:
            pooled: Tensor = output.pooler_output
            return pooled
        last, real = output.last_hidden_state, batch.inputs["attention_mask"]
        if self.cls_id is not None:
            real = real * (batch.inputs["input_ids"] == self.cls_id)
        weights = (real / real.sum(1, keepdim=True)).to(last.dtype)
        return torch.tanh(self.summariser((weights[:, None] @ last)[:, 0]))

    def log_probabilities(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[batch, pieces, tags] log-probabilities of the tags."""
        if self.chain is not None:
            return log_marginals(self.chain, emissions, mask)
        return emissions.log_softmax(-1)

    def best_tags(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """[batch, pieces] int64 most likely tag sequence."""
        if self.chain is not None:
            return viterbi(self.chain, emissions, mask)
        return emissions.argmax(-1)

    def loss(self, batch: Batch, wanted: Tensor, name: str, soft: bool) -> Tensor:
        """Loss, a scalar, for target probabilities [batch, pieces, tags].

        Cross-entropy of a CRF with gold tags is that of whole rows, divided by their pieces; all others use the
        probabilities of single pieces.
        """
        emissions = self(batch)
        if self.chain is not None and name == "cross-entropy" and not soft:
            tags = wanted.argmax(-1)
            return -log_likelihood(self.chain, emissions, tags, batch.mask).sum() / batch.mask.sum()
        return TAG_LOSSES[name](self.log_probabilities(emissions, batch.mask), wanted, batch.mask)

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters outside the encoder, by name."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("encoder.")}
