"""Check that a Ray cluster answers at an address, in seconds: Ray itself retries for minutes."""

from __future__ import annotations

import socket
import urllib.parse
from contextlib import suppress

_CONNECT_SECONDS = 10.0
# HTTP/2's preface and an empty SETTINGS frame; a server of gRPC answers with SETTINGS (type 4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS = 4


def check_address(address: str) -> str:
    """The address to pass to Ray: `auto` becomes that of the cluster that runs on this machine.

    Raises:
        ValueError: it is no address, or what answers there is not Ray.
        OSError: nothing answers.
    """
    if address == "auto":
        address = _address_on_this_machine()
    where = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = where.hostname, where.port
    except ValueError as error:
        raise ValueError(f"not HOST:PORT: {error}") from None
    if where.scheme not in ("", "ray") or not host or port is None:
        raise ValueError("not an address: give auto, HOST:PORT or ray://HOST:PORT")
    with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
        connection.sendall(_PREFACE)
        answer = b""
        with suppress(TimeoutError, ConnectionError):
            while len(answer) < 9 and (part := connection.recv(9 - len(answer))):
                answer += part
    if answer.startswith(b"HTTP/1"):
        raise ValueError("a web server answers there; the dashboard's port is for jobs, Ray's own is 6379")
    if len(answer) < 9 or answer[3] != _SETTINGS:
        raise ValueError("what answers there is not Ray")
    return address


def _address_on_this_machine() -> str:
    from ray._private import services

    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        raise ValueError(
            "no Ray runs on this machine; start one with 'ray start --head', or leave RAY_ADDRESS unset for a"
            " new one"
        ) from None
