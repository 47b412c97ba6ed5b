"""Setup hooks of Ray's workers."""

from __future__ import annotations

import os
import socket

import psutil
import pytest
import ray.util

from pipelines.core.worker_setup import set_up_cluster_worker


def test_gloo_uses_the_address_of_the_node_in_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, address), *_ = [
        (name, one.address)
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family == socket.AF_INET
    ]
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    set_up_cluster_worker()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    set_up_cluster_worker()
    assert os.environ["GLOO_SOCKET_IFNAME"] == name
