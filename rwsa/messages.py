"""Texts for people: bounded in length, and without control characters."""

from __future__ import annotations

import reprlib

MAX_CHARACTERS = 1000

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def short_repr(value: object) -> str:
    """`repr`, of at most about a hundred characters or six elements."""
    return _SHORT.repr(value)


def bounded(text: str) -> str:
    """The text; beyond `MAX_CHARACTERS`, its beginning, a count of what is left out, and its end."""
    if len(text) <= MAX_CHARACTERS:
        return text
    kept = MAX_CHARACTERS - 50
    head, tail = text[: kept * 2 // 3], text[-(kept // 3) :]
    return f"{head} … [{len(text) - len(head) - len(tail):,} characters left out] … {tail}"


def printable(text: str) -> str:
    """The text in one line, with control characters, line breaks and half surrogates as escapes (`\\x1b`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
