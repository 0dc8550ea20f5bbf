"""Networks: built by name, loaded from a file, and run over images."""
