"""Options of everything that generates text."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from remodeler.errors import InputError, option
from remodeler.runs.options import Option, config

if TYPE_CHECKING:
    from remodeler.generation.sampling import Sampling

GENERATION = "Generation"


@config
class GenerationConfig:
    """How much a model generates."""

    max_new_tokens: Annotated[int, Option(GENERATION, low=1)] = 256
    """Maximum number of tokens per completion."""
    batch_size: Annotated[int | None, Option(GENERATION, low=1, default="as the device allows")] = None
    """Texts generated at once."""


@config
class DecodingConfig(GenerationConfig):
    """How a model continues its prompts, once each."""

    temperature: Annotated[float, Option(GENERATION, low=0)] = 1.0
    """Sampling temperature; 0 = greedy."""
    top_p: Annotated[float, Option(GENERATION, above=0, high=1)] = 0.95
    """Nucleus sampling: draw from the likeliest tokens with this total probability; 1 = all."""
    chat: Annotated[bool, Option(GENERATION)] = False
    """Put each prompt into the model's chat template, as a user turn."""

    def sampling(self, seed: int) -> "Sampling":
        """The same as what draws tokens takes it."""
        from remodeler.generation.sampling import Sampling

        return Sampling(self.max_new_tokens, self.temperature, self.top_p, chat=self.chat, seed=seed)


@config
class SamplingConfig(DecodingConfig):
    """How a model continues its prompts."""

    completions: Annotated[int, Option(GENERATION, low=1)] = 1
    """Completions per prompt."""

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.completions > 1:
            raise InputError(
                f"{option('completions')} of {self.completions} at {option('temperature')} 0 would all be the same: "
                f"raise {option('temperature')}"
            )

    def sampling(self, seed: int) -> "Sampling":
        """The same as what draws tokens takes it."""
        return replace(super().sampling(seed), samples=self.completions)
