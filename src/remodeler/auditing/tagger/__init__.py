"""The span tagger: encoder, auxiliary layer information, CRF."""
