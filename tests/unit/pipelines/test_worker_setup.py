"""What Ray's workers set up for themselves."""

from __future__ import annotations

import os
import socket

import psutil
import pytest
import ray.util

from pipelines.core.worker_setup import on_a_cluster


def test_gloo_speaks_from_the_nodes_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, address), *_ = [
        (name, one.address)
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    ]
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    on_a_cluster()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    on_a_cluster()
    assert os.environ["GLOO_SOCKET_IFNAME"] == name
