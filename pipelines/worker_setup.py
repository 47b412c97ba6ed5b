"""What every Ray worker does first. Small, because all of them import it."""

from __future__ import annotations

import logging

_CHATTY = {
    # Asks the dashboard, which a local Ray does not start, and says each second that nobody answers.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.ERROR,
}


def quieten() -> None:
    """Silence what is no news."""
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
