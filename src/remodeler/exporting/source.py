"""The GGUF file that a model was pruned from, as its record tells: its quantised numbers are those to export."""

import logging
from pathlib import Path

from remodeler.checkpoint.gguf import is_gguf
from remodeler.exporting.config import ExportConfig
from remodeler.model.files.gguf.parts import read_whole
from remodeler.runs.options import as_recorded
from remodeler.runs.records import RECORD_FILE, load_record, read_json, sha256
from remodeler.runs.removals import REMOVALS_FILE, WIDTHS_FILE

logger = logging.getLogger(__name__)

PRUNED = ("prune", "cut")
"""Verbs that leave a file's numbers as they are."""


def source_file(config: ExportConfig) -> Path | None:
    """The file that a model can be cut out of.

    None where it came from none, or lost heads and channels, where another way to store it is asked for, and, which is
    said, where the file is gone or another one by now.
    """
    folder = Path(str(as_recorded(config.model)))
    if config.store or config.tokenizer_from or not (folder / RECORD_FILE).is_file():
        return None
    record = load_record(folder)
    given = record.inputs.get("model") or {}
    digest = (given.get("gguf") or {}).get("sha256")
    if record.verb not in PRUNED or digest is None or not (folder / REMOVALS_FILE).is_file():
        return None
    if (folder / WIDTHS_FILE).is_file() and read_json(folder / WIDTHS_FILE):
        return None
    file = Path(str(given["name"]))
    if not file.is_file() or sha256(*read_whole(file).files) != digest:
        logger.warning(f"{file}, which it was pruned from, is not there any more: it is written from its own weights")
        return None
    logger.info(f"{folder} was pruned from {file}: it is cut out of that")
    return file


def tokenizer_file(config: ExportConfig) -> Path | None:
    """The file whose tokenizer is copied: as given, or the one that the model is, or was pruned from."""
    if config.tokenizer_from is not None:
        return config.tokenizer_from
    name = str(as_recorded(config.model))
    if is_gguf(name):
        return Path(name)
    given = load_record(Path(name)).inputs.get("model") if (Path(name) / RECORD_FILE).is_file() else None
    source = str(given.get("name")) if isinstance(given, dict) else ""
    return Path(source) if is_gguf(source) and Path(source).is_file() else None
