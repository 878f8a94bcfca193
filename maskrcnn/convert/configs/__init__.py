"""Configs of other frameworks, read as data and never run, in our keys."""
