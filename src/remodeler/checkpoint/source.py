"""Which model, and how it is loaded."""

from dataclasses import asdict, dataclass

from remodeler.checkpoint.load import Checkpoint, load


@dataclass(frozen=True)
class Source:
    """Which model, and how to compute with it."""

    model: str
    revision: str | None = None
    family: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"
    stream: bool = False
    """Read the layers from the disk as a pass reaches them: for models larger than memory."""

    def load(self) -> Checkpoint:
        """The checkpoint."""
        given = asdict(self)
        return load(given.pop("model"), **given)
