"""A device is let go: what is of its owner goes, and nothing is left that could be used."""
