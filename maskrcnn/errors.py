"""Errors that a user can cause and mend.

The command line prints a :class:`UserError` as one sentence and exits with status 2; anything else is
a bug of ours and keeps its traceback.  Every message says what is wrong, where (file:line:column, image
id, annotation id) and what to do.
"""


class UserError(Exception):
    """Something the user gave us is wrong; the message is already phrased for them."""


class ConfigError(UserError, ValueError):
    """A configuration file or a ``--set`` is wrong."""


class DataError(UserError, ValueError):
    """An image or an annotation is missing, broken or contradictory."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, or does not belong to this model."""


class OutputError(UserError):
    """A file or folder cannot be written; what was there before is as it was."""
