"""Tables."""
from pathlib import Path
def page(out: Path): yield "todo"
def plot(out: Path, path: Path) -> None: ...
