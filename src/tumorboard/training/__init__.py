"""From a Manifest to weights."""
