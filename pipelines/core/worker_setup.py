"""Setup hooks that Ray runs first in every worker process. Small, because every worker imports this file."""

from __future__ import annotations

import logging
import os
import socket

_GLOO = "GLOO_SOCKET_IFNAME"


def set_up_local_worker() -> None:
    """Silence a warning that Ray Train repeats every second where Ray runs without its dashboard.

    Processes that Ray Train configures by its own `LoggingConfig` override this.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def set_up_cluster_worker() -> None:
    """Also make gloo listen on the address at which this node is registered with Ray.

    By default gloo uses the address of the host's name, on many machines a loopback address that other nodes
    cannot reach.
    """
    set_up_local_worker()
    import psutil
    import ray.util

    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family in (socket.AF_INET, socket.AF_INET6) and one.address == own for one in addresses):
            os.environ.setdefault(_GLOO, name)
