"""A panel of image classifiers that vote: a DVC pipeline for labelled medical images. For research, not for diagnosis."""
