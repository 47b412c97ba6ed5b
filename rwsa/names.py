"""File names as text: a name may hold any byte but / and NUL; text is UTF-8, and a message is one line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

from rwsa.errors import InputError

# Control characters, line separators, and marks that reverse the direction of text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FILE_URI = "file:///"


def shown(name: str | os.PathLike[str]) -> str:
    r"""A name for messages and reports, as one line of UTF-8: `caf\xe9.wav`, `two\nlines.wav`."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], as_utf8(os.fspath(name)))


def as_utf8(name: str) -> str:
    r"""A name in which bytes that are not UTF-8 stand as `\xe9`; others are unchanged."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def stored_path(path: str) -> str:
    """An absolute path as UTF-8, to be stored: itself, or a `file:///` URI if its bytes are not UTF-8."""
    return path if path.isascii() or as_utf8(path) == path else Path(path).as_uri()


def local_path(stored: str) -> Path:
    """The path of which `stored_path` made `stored`."""
    if stored.startswith(_FILE_URI):
        return Path(os.fsdecode(unquote_to_bytes(stored.removeprefix("file://"))))
    return Path(stored)


def not_empty(path: str) -> str:
    """The path itself.

    Raises:
        InputError: it is empty, as that of an unset variable is, and would mean the current folder.
    """
    if not path:
        raise InputError("the path is empty, perhaps by an unset variable; the current folder is .")
    return path
