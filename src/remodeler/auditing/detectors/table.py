"""Detectors find spans. A kind is a function that opens one, and a line in ``DETECTORS``.

A detector is any function from texts to their spans, sorted, disjoint and inside the text. The kind is recognised by
what lies at a path, so that a person gives a file, a folder or a hub id and names no kind.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.auditing.config import DetectorConfig
from remodeler.auditing.detectors import classifiers, lexicon
from remodeler.auditing.spans import Detector
from remodeler.auditing.tagger import predict
from remodeler.auditing.tagger.config import SMALL_TAGGER
from remodeler.auditing.tagger.files import SETTINGS_FILE, load_tagger, tagger_folder
from remodeler.checkpoint.config import LoadConfig
from remodeler.checkpoint.load import read_settings
from remodeler.errors import InputError, option

Opener = Callable[[str, DetectorConfig, LoadConfig], Detector]

BUNDLED = {"lexicon": lexicon.BUNDLED, SMALL_TAGGER: tagger_folder(SMALL_TAGGER)}
"""Paths of the detectors that need no download, by name."""


def local_path(source: str) -> Path:
    """Path of a detector: a bundled one, a file or a folder (a hub id's does not exist)."""
    return BUNDLED.get(source, Path(source))


def open_lexicon(source: str, detection: DetectorConfig, loading: LoadConfig) -> Detector:
    """Words learned from data: a file made by ``remodel audit lexicon``, or the bundled one."""
    return lexicon.load(local_path(source))


def open_tagger(source: str, detection: DetectorConfig, loading: LoadConfig) -> Detector:
    """A tagger made by ``remodel audit train``, with its own rules or the given threshold."""
    tagger = load_tagger(source, loading.device, loading.trust_remote_code)
    if detection.threshold is not None:
        rules = replace(tagger.settings.rules, decode="threshold", threshold=detection.threshold)
        tagger = replace(tagger, settings=replace(tagger.settings, rules=rules))
    return predict.detector(tagger)


def open_token_classifier(source: str, detection: DetectorConfig, loading: LoadConfig) -> Detector:
    """Any Hugging Face token classifier."""
    return partial(classifiers.token_spans, classifiers.load(source, "tokens", detection, loading), detection)


def open_sequence_classifier(source: str, detection: DetectorConfig, loading: LoadConfig) -> Detector:
    """Any Hugging Face sequence classifier."""
    return partial(classifiers.unit_spans, classifiers.load(source, "sentences", detection, loading), detection)


DETECTORS: dict[str, Opener] = {
    "lexicon": open_lexicon,
    "tagger": open_tagger,
    "tokens": open_token_classifier,
    "sentences": open_sequence_classifier,
}


def kind(source: str) -> str:
    """Kind of a detector: a row of ``DETECTORS``.

    Raises:
        InputError: if there is nothing that finds spans.
    """
    if local_path(source).is_file():
        return "lexicon"
    if (local_path(source) / SETTINGS_FILE).is_file():
        return "tagger"
    for name in read_settings(source, None).get("architectures") or ():
        for found, ending in (("tokens", "ForTokenClassification"), ("sentences", "ForSequenceClassification")):
            if name.endswith(ending):
                return found
    raise InputError(
        f"{source} is not a detector: give a lexicon file, a tagger folder, or a token or sequence classifier"
    )


def detector(
    source: str | Detector, detection: DetectorConfig | None = None, loading: LoadConfig | None = None
) -> Detector:
    """Open a detector: a lexicon file, a tagger folder, or a classifier's folder or hub id; a function is one already.

    Raises:
        InputError: if it is not a detector.
    """
    if not isinstance(source, str):
        return source
    found, detection = kind(source), detection or DetectorConfig()
    if detection.labels and found in ("lexicon", "tagger"):
        raise InputError(f"{option('labels', ','.join(detection.labels))}: a {found} has no labels, leave it out")
    return DETECTORS[found](source, detection, loading or LoadConfig())


def detector_name(source: Any) -> str:
    """Path or name of a detector; of a function, its name."""
    return source if isinstance(source, str) else str(getattr(source, "__qualname__", type(source).__name__))
