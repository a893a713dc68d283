"""What finds spans: lexicon, classifiers, taggers."""
