"""Detectors: what finds spans. A kind is a function that opens one, and a line in ``DETECTORS``.

A detector is any function from texts to their spans, sorted, disjoint and inside the text. The kinds here tell
themselves apart by what lies at the given place, so that a person names a file, a folder or a hub id and no kind.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from remodeler.auditing.detectors import classifiers, lexicon
from remodeler.auditing.detectors.classifiers import Settings
from remodeler.auditing.spans import Detector
from remodeler.auditing.tagger import files, predict
from remodeler.auditing.tagger.files import SETTINGS_FILE, load_tagger
from remodeler.checkpoint.load import read_settings
from remodeler.errors import InputError

Opener = Callable[[str, Settings], Detector]

TRAVEL_ALONG = {"lexicon": lexicon.SHIPPED, files.SHIPPED: files.located(files.SHIPPED)}
"""Detectors that need no download: their names, and where they are."""


def located(source: str) -> Path:
    """Where a detector is: one that travels along, or a file or folder (a hub id's does not exist)."""
    return TRAVEL_ALONG.get(source, Path(source))


def word_list(source: str, settings: Settings) -> Detector:
    """Words learned from data: a file made by ``remodel audit lexicon``, or the one that travels along."""
    return lexicon.load(located(source))


def tagger(source: str, settings: Settings) -> Detector:
    """A tagger made by ``remodel audit train``: by its own rules, or by the threshold that is given."""
    found = load_tagger(source, settings.device, settings.trust_remote_code)
    if settings.threshold is not None:
        rules = replace(found.settings.rules, decode="threshold", threshold=settings.threshold)
        found = replace(found, settings=replace(found.settings, rules=rules))
    return predict.detector(found)


def token_classifier(source: str, settings: Settings) -> Detector:
    """Any Hugging Face token classifier."""
    return partial(classifiers.token_spans, classifiers.opened(source, "tokens", settings), settings)


def sequence_classifier(source: str, settings: Settings) -> Detector:
    """Any Hugging Face sequence classifier."""
    return partial(classifiers.unit_spans, classifiers.opened(source, "sentences", settings), settings)


DETECTORS: dict[str, Opener] = {
    "lexicon": word_list,
    "tagger": tagger,
    "tokens": token_classifier,
    "sentences": sequence_classifier,
}


def kind(source: str) -> str:
    """What lies at a place: a row of ``DETECTORS``.

    Raises:
        InputError: when nothing that finds spans is there.
    """
    if located(source).is_file():
        return "lexicon"
    if (located(source) / SETTINGS_FILE).is_file():
        return "tagger"
    for name in read_settings(source, None).get("architectures") or ():
        for found, ending in (("tokens", "ForTokenClassification"), ("sentences", "ForSequenceClassification")):
            if name.endswith(ending):
                return found
    raise InputError(
        f"{source} finds no spans: give a lexicon's file, a tagger's folder, or a classifier of tokens or of sequences"
    )


def detector(source: str, settings: Settings | None = None) -> Detector:
    """The detector at a place: a lexicon's file, a tagger's folder, or a classifier's folder or hub id.

    Raises:
        InputError: for what is none, in one sentence.
    """
    found, how = kind(source), settings or Settings()
    if how.labels and found in ("lexicon", "tagger"):
        raise InputError(f"--labels {','.join(how.labels)} was given, which a {found} has none of: leave it out")
    return DETECTORS[found](source, how)
