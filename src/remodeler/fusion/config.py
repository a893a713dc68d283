"""What a person asks of a fusion, and the presets of the papers.

``fusellm`` and ``fusechat`` set what the released code chose, for comparison: alignment by dynamic programming, edit
distances or mapping statistics, losses per token, renormalised top-k, certain targets where nothing aligns. Their
faults, the target that is one token late and the empty name that matches everything, are not repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.fusion.targets import Rules
from remodeler.training.adapters import Lora
from remodeler.training.losses import DIVERGENCES

ALIGNMENTS = ("bytes", "dp")
MAPS = ("pieces", "exact", "edit", "statistics")
HYBRID = "hybrid"
"""Token by token where both vocabularies have it, else by rank: GOLD's loss."""
PARITIES: dict[str, dict[str, Any]] = {
    "fusellm": {
        "align": "dp",
        "map": "edit",
        "rules": Rules(score="token", unaligned="onehot", collide="first", rest=False),
    },
    "fusechat": {
        "align": "dp",
        "map": "statistics",
        "rules": Rules(score="token", unaligned="onehot", collide="first", rest=False),
    },
}


@dataclass(frozen=True)
class Wish:
    """What to fuse, and how."""

    student: str
    teachers: tuple[str, ...]
    texts: str = "alpaca"
    samples: int = 8000
    heldout: str | None = None
    length: int | None = None
    """Tokens a window; by default 1,024 or the shortest context."""
    k: int = 10
    itself: bool = True
    """The student's own predictions are a voice too, as in both papers."""
    align: str = "bytes"
    map: str = "pieces"
    """Of vocabularies."""
    inside: bool = True
    """Teachers speak inside their tokens too, where positions go by bytes and tokens by pieces."""
    rules: Rules = field(default_factory=Rules)
    share: float = 0.9
    """Of the text's own loss: the papers' lambda."""
    divergence: str = "forward"
    temperature: float = 1.0
    lora: Lora | None = None
    """None trains everything."""
    steps: int | None = None
    epochs: float = 1.0
    stores: Path | None = None
    """Where teachers' predictions are kept for later runs; by default inside the result until it is done."""
    parity: str | None = None
    seed: int = 42
    trust_remote_code: bool = False
    family: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    run: Mapping[str, Any] = field(default_factory=dict)
    """Of the training run: ``learning_rate``, ``batch``, ``schedule``, ``micro``, ``precision``; ``order``, seed of
    what a step reads where it is not that of the texts."""

    def settled(self) -> "Wish":
        """With the preset of a paper, if one is asked for.

        Raises:
            InputError: for what is not known, or contradicts itself.
        """
        if self.parity is not None and self.parity not in PARITIES:
            raise InputError(f"--parity {self.parity!r} is not known: choose {', '.join(PARITIES)}")
        found = replace(self, **PARITIES[self.parity]) if self.parity else self
        for name, allowed in (("align", ALIGNMENTS), ("map", MAPS), ("divergence", (*DIVERGENCES, HYBRID))):
            if getattr(found, name) not in allowed:
                raise InputError(f"--{name} {getattr(found, name)!r} is not known: choose {', '.join(allowed)}")
        if not self.teachers:
            raise InputError("no teacher was given: name at least one with --teachers")
        for name in self.teachers:
            if _same(name, self.student) or self.teachers.count(name) > 1:
                raise InputError(f"{name} is given twice, as a teacher and as something else: leave one out")
        if self.k < 1:
            raise InputError(f"--top-k {self.k} was given, at least 1 is needed: raise it")
        if not self.temperature > 0 or not 0 <= self.share <= 1:
            raise InputError(
                f"a temperature of {self.temperature:g} and a share of {self.share:g} for the text's own loss were "
                "given: the first is above 0, the second from 0 to 1"
            )
        return found._hybrid() if found.divergence == HYBRID else found

    def _hybrid(self) -> "Wish":
        """As the hybrid loss needs it: groups by bytes, tokens that are the same and no others."""
        if self.align != "bytes" or self.rules.fusion != "mince" or self.rules.unaligned == "onehot":
            raise InputError(
                f"--divergence hybrid was asked for with --align {self.align}, --fusion {self.rules.fusion} and "
                f"--unaligned {self.rules.unaligned}: it takes bytes, mince, and skip or next"
            )
        if self.map not in ("pieces", "exact"):
            raise InputError(f"--divergence hybrid was asked for with --map {self.map}: it takes exact alone")
        return replace(self, map="exact", inside=False)


def _same(one: str, two: str) -> bool:
    paths = Path(one), Path(two)
    return one == two or (all(each.exists() for each in paths) and paths[0].resolve() == paths[1].resolve())
