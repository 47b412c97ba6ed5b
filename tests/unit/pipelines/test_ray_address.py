"""An address where no Ray answers is refused in seconds, with the reason."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from ray._private import services

from pipelines.core import ray_address
from pipelines.core.ray_address import check_address


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """A server that answers a connection with these bytes; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)
                with suppress(ConnectionError):
                    connection.recv(100)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a web server answers there"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not Ray"),
        (b"", "is not Ray"),
    ],
)
def test_other_servers_are_not_ray(answer: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_CONNECT_SECONDS", 0.5)
    with server(answer) as port, pytest.raises(ValueError, match=message):
        check_address(f"127.0.0.1:{port}")


def test_a_grpc_server_may_be_ray() -> None:
    with server(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00") as port:
        assert check_address(f"ray://127.0.0.1:{port}") == f"ray://127.0.0.1:{port}"


def test_closed_ports_and_unknown_hosts_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(OSError, match=r"resolution|not known|resolve"):
        check_address("no-such-host.invalid:6379")


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "host:port", "host:99999", "http://a:1", "a:b:c"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"not HOST:PORT|not an address"):
        check_address(address)


def test_auto_without_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir: None)
    with pytest.raises(ValueError, match="no Ray runs on this machine; start one with 'ray start --head'"):
        check_address("auto")
