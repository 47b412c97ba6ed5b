"""The one exception that means: what the user gave is wrong, and here is the remedy."""

from __future__ import annotations


class InputError(ValueError):
    """A file, key or value that the user gave cannot be used.

    The message names the file or key, says what is wrong with it and what to do. Command-line
    verbs print it as one line and exit with status 2; anything else that escapes is a bug.
    """


class UnreachableError(InputError):
    """A store refused or is away: whether what was looked for is there, and whole, is not known."""
