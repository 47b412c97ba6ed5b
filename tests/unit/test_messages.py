"""Texts for people: bounded, in one line, without control characters."""

from __future__ import annotations

import pickle

from rwsa.errors import InputError, UnreachableError
from rwsa.messages import MAX_CHARACTERS, bounded, printable, short_repr


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    text = "start " + "x" * 58_000 + " end"
    shown = bounded(text)
    assert len(shown) <= MAX_CHARACTERS
    assert shown.startswith("start x")
    assert shown.endswith("x end")
    left_out = len(text) - shown.count("x") - len("start  end")
    assert f"[{left_out:,} characters left out]" in shown
    assert bounded(shown) == shown
    assert bounded("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_values_are_shown_shortened() -> None:
    assert short_repr("many") == "'many'"
    for value in ("x" * 10**6, list(range(10**6)), {str(n): n for n in range(10**5)}, b"x" * 10**6):
        assert len(short_repr(value)) < 200


def test_control_characters_are_printed_as_escapes() -> None:
    assert printable("é 音 a.wav: ×10⁹ …") == "é 音 a.wav: ×10⁹ …"
    assert printable("a\x1b[31m\n\r\x07\x9b\u202e\udcff") == r"a\x1b[31m\n\r\x07\x9b\u202e\udcff"


def test_the_message_of_an_error_is_bounded_wherever_it_goes() -> None:
    for kind in (InputError, UnreachableError):
        error = kind("a.yaml: " + "x" * 10**6)
        assert len(str(error)) <= MAX_CHARACTERS
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(str(InputError(f"outer: {error}"))) <= MAX_CHARACTERS
