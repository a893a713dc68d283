"""What a person asks of an alignment."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remodeler.alignment.difficulty import Rule
from remodeler.alignment.phases import Course
from remodeler.checkpoints import Checkpoint, load, read_settings
from remodeler.families import FAMILIES
from remodeler.trainees import training_dtype


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    family: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"

    def load(self, name: str, device: Any, trained: bool = False) -> Checkpoint:
        """A model; ``trained``: all of it is going to change, so that it needs float32."""
        known = read_settings(name, None)["model_type"] in FAMILIES
        return load(
            name,
            dtype=training_dtype(self.dtype, trained, device),
            device=str(device),
            family=None if known else self.family,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True)
class ReviserWish:
    """A reviser to be trained."""

    model: str
    preferences: str
    template: Path | None = None
    samples: int | None = None
    heldout: float = 0.1
    """Share of the prompts."""
    lower: int | None = None
    gap: float = 0.0
    length: int | None = None
    rule: Rule = field(default_factory=Rule)
    label_weight: float = 1.0
    afresh: bool = False
    """The adaptive reviser starts from the model, not from the warm-up reviser."""
    warmup_epochs: float = 1.0
    course: Course = field(default_factory=Course)
    loading: Loading = field(default_factory=Loading)
    seed: int = 42


def options(wish: Any) -> dict[str, Any]:
    """A wish as it stands in a record."""
    return {key: _plain(value) for key, value in asdict(wish).items() if key != "model"}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return str(value) if isinstance(value, Path) else value
