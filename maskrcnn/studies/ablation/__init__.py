"""Ablations: a suite of variants over one recipe, their runs, and the report that compares them."""
