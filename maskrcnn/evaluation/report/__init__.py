"""All figures of a report about one evaluation, and of two runs compared; drawn by ``viz``."""
