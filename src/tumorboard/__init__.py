"""A panel of image classifiers that vote, as a DVC pipeline. For research, not for diagnosis."""
