"""What every Ray worker does first. Small, because all of them import it."""

from __future__ import annotations

import logging
import os
import socket

_CHATTY = {
    # Asks the dashboard, which a local Ray does not start, and says each second that nobody answers.
    "ray.train.v2._internal.execution.controller.placement_group_cleaner": logging.ERROR,
}
_GLOO = "GLOO_SOCKET_IFNAME"


def quieten() -> None:
    """Silence what is no news."""
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)


def on_a_cluster() -> None:
    """The same, and have gloo speak from the address by which Ray's nodes know this one.

    By itself it takes the one that the host's name stands for, which on many machines is a loopback's, where
    other nodes look in vain.
    """
    quieten()
    import psutil
    import ray.util

    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family in (socket.AF_INET, socket.AF_INET6) and one.address == own for one in addresses):
            os.environ.setdefault(_GLOO, name)
