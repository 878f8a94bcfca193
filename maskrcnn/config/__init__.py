"""YAML text to frozen, typed dataclasses; registries of swappable parts."""
