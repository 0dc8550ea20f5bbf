"""From a name to a network, from a file to a network, from a network to probabilities."""
