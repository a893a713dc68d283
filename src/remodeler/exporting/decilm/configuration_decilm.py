"""The config of a model in DeciLM's layout, for readers that ask for its code: ``block_configs`` as objects.

It lies beside the weights, needs only transformers, and computes nothing.
"""

from typing import Any

from transformers import LlamaConfig


class Fields:
    """A dictionary whose values are read as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, Fields(value) if isinstance(value, dict) else value)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary again."""
        return {name: value.to_dict() if isinstance(value, Fields) else value for name, value in vars(self).items()}


class DeciLMConfig(LlamaConfig):
    """Llama's, with what each layer is."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_configs = [Fields(each) if isinstance(each, dict) else each for each in block_configs or []]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = super().to_dict()
        blocks = self.__dict__.get("block_configs") or []
        found["block_configs"] = [each.to_dict() if isinstance(each, Fields) else each for each in blocks]
        return found
