"""What a person asks of an audit: texts, or what one or two models write; what finds spans; how it is shown."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remodeler.auditing.detectors.classifiers import Settings, passing
from remodeler.errors import InputError
from remodeler.generation.sampling import Sampling, refuse_size


@dataclass(frozen=True)
class Wish:
    """What to audit, and how."""

    texts: Path | None = None
    models: tuple[str, ...] = ()
    """One, or two side by side."""
    prompts: str | None = None
    words: int | None = None
    """Of each prompt."""
    limit: int | None = None
    """Prompts or texts, from the start."""
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None
    detector: str = "lexicon"
    settings: Settings = field(default_factory=Settings)
    skip_bad: bool = False
    revision: str | None = None
    family: str | None = None

    def settled(self) -> "Wish":
        """Itself.

        Raises:
            InputError: for what contradicts itself.
        """
        if bool(self.models) == (self.texts is not None):
            given = "both" if self.models else "neither"
            raise InputError(f"{given} of a model and --texts FILE were given: give one of them")
        if self.models and self.prompts is None:
            raise InputError(f"{self.models[0]} was given without prompts: say what it completes with --prompts FILE")
        if self.texts is not None and (self.prompts or self.words):
            raise InputError("--texts was given with --prompts or --prompt-words: those are for models")
        if len(set(self.models)) < len(self.models):
            raise InputError(f"{self.models[0]} was given twice: give --against another model")
        if not 0 <= passing(self.settings) <= 1:
            raise InputError(f"--threshold {self.settings.threshold:g} was given: it is a probability, from 0 to 1")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit} was given, at least 1 is needed: raise it")
        refuse_size(self.batch_size)
        self.sampling.checked()
        return self

    def loading(self, place: int) -> dict[str, Any]:
        """How the model at a place is loaded; a revision is the first's."""
        return {
            "revision": self.revision if place == 0 else None,
            "family": self.family,
            "dtype": self.settings.dtype,
            "device": self.settings.device,
            "trust_remote_code": self.settings.trust_remote_code,
        }
