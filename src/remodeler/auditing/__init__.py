"""Find and count toxic spans, in texts and in what models write."""

from remodeler.runs.lazy import lazy

_PLACES = {
    "audit": "job",
    "DETECTORS": "detectors.table",
    "detector": "detectors.table",
    "learn_lexicon": "detectors.lexicon",
    "train_tagger": "tagger.train_job",
    "load_tagger": "tagger.files",
    "predict": "tagger.predict_job",
    "vote": "tagger.predict_job",
    "score": "prediction_files",
    "convert": "prediction_files",
}
__getattr__, __dir__ = lazy(__name__, _PLACES)
