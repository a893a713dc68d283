"""Detectors of spans: lexicon, classifiers, taggers."""
