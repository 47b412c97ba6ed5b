"""What Ray needs of a machine, and setup hooks that Ray runs first in every worker process.

Small, because every worker imports this file.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path

from rwsa.machine import is_writable, private_folder

_GLOO = "GLOO_SOCKET_IFNAME"
# A socket's path has at most 107 bytes; Ray adds /ray/session_DATE_TIME_PROCESS/sockets/plasma_store.
_LONGEST_FOLDER = 107 - 67


def set_up_machine() -> None:
    """Prepare this process to start Ray here: a folder that is short enough for sockets, and a token.

    Raises:
        InputError: there is no folder that Ray can use.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(folder)) > _LONGEST_FOLDER or not is_writable(Path(folder)):
        chosen = private_folder(longest=_LONGEST_FOLDER)
        os.environ["RAY_TMPDIR"] = str(chosen)
        print(
            f"temporary folder {folder}: too long for Ray's sockets, or not writable; Ray uses {chosen}"
            " (RAY_TMPDIR)",
            file=sys.stderr,
        )
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not named:
        _prepare_token(Path.home())


def _prepare_token(home: Path) -> None:
    """Have a token where Ray cannot write one, and let nobody else read the one that it writes."""
    folder = home / ".ray"
    if (folder / "auth_token").is_file() or is_writable(folder if folder.exists() else home):
        # Ray writes its token with the user's mask, often readable by all.
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
    else:  # a token that is known to this process and its workers only
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


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
