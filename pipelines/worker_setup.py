"""What every Ray worker does first. Small, because all of them import it."""

from __future__ import annotations

import logging

_CHATTY = {
    # Asks the dashboard, which a local Ray does not start, and says each second that nobody answers.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.ERROR,
    # Tells of its own doings, at every checkpoint on every rank; the progress lines say what matters.
    "ray.train.v2": logging.WARNING,
}


def quieten() -> None:
    """Silence what is no news."""
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
