"""Linear-chain CRF in float32, batched: log-partition, Viterbi, marginals.

The score of tags y is s[y1] + sum e_t[y_t] + sum A[y_t-1, y_t] + z[y_T] with emissions e. Rows are padded on the right
and their first position is real. Transitions that a scheme forbids (``bio``: O to I, and I at the start) are -10,000,
which no emission outweighs.
"""

import torch
from torch import Tensor, nn

from remodeler.auditing.tagger.labels import OUTSIDE

FORBIDDEN = -1e4


class Chain(nn.Module):
    """Scores of the first tag, of the last, and of transitions."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        super().__init__()
        count = len(tags)
        self.start = nn.Parameter(torch.zeros(count))
        self.end = nn.Parameter(torch.zeros(count))
        self.transitions = nn.Parameter(torch.zeros(count, count))
        starts, steps = torch.zeros(count), torch.zeros(count, count)
        if "B" in tags:
            starts[tags.index("I")] = steps[OUTSIDE, tags.index("I")] = FORBIDDEN
        self.register_buffer("forbidden_starts", starts, persistent=False)
        self.register_buffer("forbidden_steps", steps, persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start [tags], transitions [tags, tags] from row to column, end [tags] in float32, forbidden ones included."""
        starts, steps = self.get_buffer("forbidden_starts"), self.get_buffer("forbidden_steps")
        return self.start.float() + starts, self.transitions.float() + steps, self.end.float()


def path_score(chain: Chain, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
    """[batch] scores of given tags [batch, time]; emissions [batch, time, tags], mask [batch, time] bool."""
    start, steps, end = chain.scores()
    emitted = emissions.float().gather(2, tags[..., None])[..., 0]
    moved = steps[tags[:, :-1], tags[:, 1:]]
    last = tags.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
    return start[tags[:, 0]] + (emitted * mask).sum(1) + (moved * mask[:, 1:]).sum(1) + end[last]


def log_partition(chain: Chain, emissions: Tensor, mask: Tensor) -> Tensor:
    """[batch] log-sum-exp of the scores of all tag sequences."""
    return torch.logsumexp(_forward(chain, emissions.float(), mask)[-1] + chain.scores()[2], dim=1)


def log_likelihood(chain: Chain, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
    """[batch] log-probabilities of given tags."""
    return path_score(chain, emissions, tags, mask) - log_partition(chain, emissions, mask)


def log_marginals(chain: Chain, emissions: Tensor, mask: Tensor) -> Tensor:
    """[batch, time, tags] marginal log-probabilities of each tag at each position; 0 at padding."""
    emissions = emissions.float()
    before = torch.stack(_forward(chain, emissions, mask), dim=1)
    both = before + torch.stack(_backward(chain, emissions, mask), dim=1)
    return torch.where(mask[..., None], both.log_softmax(2), torch.zeros_like(both))


def viterbi(chain: Chain, emissions: Tensor, mask: Tensor) -> Tensor:
    """[batch, time] int64 tags with the highest score; of equal ones the lower tag. Outside at padding."""
    start, steps, end = chain.scores()
    emissions = emissions.float()
    best, origins = start + emissions[:, 0], []
    for time in range(1, emissions.shape[1]):
        reached, origin = (best[:, :, None] + steps).max(dim=1)
        best = torch.where(mask[:, time, None], reached + emissions[:, time], best)
        origins.append(origin)
    tag = (best + end).argmax(1)
    path = [tag]
    for time in range(emissions.shape[1] - 1, 0, -1):
        tag = torch.where(mask[:, time], origins[time - 1].gather(1, tag[:, None])[:, 0], tag)
        path.append(tag)
    return torch.where(mask, torch.stack(path[::-1], dim=1), OUTSIDE)


def _forward(chain: Chain, emissions: Tensor, mask: Tensor) -> list[Tensor]:
    """[batch, tags] per position: log-sum-exp of the scores of all prefixes, the emission included."""
    start, steps, _ = chain.scores()
    found = [start + emissions[:, 0]]
    for time in range(1, emissions.shape[1]):
        reached = torch.logsumexp(found[-1][:, :, None] + steps, dim=1) + emissions[:, time]
        found.append(torch.where(mask[:, time, None], reached, found[-1]))
    return found


def _backward(chain: Chain, emissions: Tensor, mask: Tensor) -> list[Tensor]:
    """[batch, tags] per position: log-sum-exp of the scores of all suffixes."""
    _, steps, end = chain.scores()
    found = [end.expand(len(emissions), -1)]
    for time in range(emissions.shape[1] - 1, 0, -1):
        onward = torch.logsumexp(steps + (emissions[:, time] + found[-1])[:, None, :], dim=2)
        found.append(torch.where(mask[:, time, None], onward, found[-1]))
    return found[::-1]
