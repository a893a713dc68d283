"""Settings of LoRA adapters; help reads them, so no torch is imported."""

from dataclasses import dataclass

from remodeler.errors import InputError


@dataclass(frozen=True)
class Lora:
    """Settings of the adapters."""

    rank: int = 32
    alpha: float = 10.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"adapters of rank {self.rank}, alpha {self.alpha:g} and dropout {self.dropout:g} were asked for: the "
                "rank is at least 1, alpha above 0, the dropout from 0 to below 1"
            )
