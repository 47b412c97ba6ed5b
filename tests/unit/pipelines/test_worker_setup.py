"""Setup hooks of Ray's workers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest
import ray.util

from pipelines.core import worker_setup
from pipelines.core.worker_setup import set_up_cluster_worker, set_up_machine


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


@pytest.fixture
def machine_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A copy of the environment with a home of its own and without Ray's settings; returns the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    monkeypatch.setattr(os, "environ", {**kept, "HOME": str(tmp_path), "TMPDIR": "/tmp"})
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_a_sound_machine_needs_nothing(machine_environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_machine()
    assert not {"RAY_TMPDIR", "RAY_AUTH_TOKEN"} & os.environ.keys()
    assert capsys.readouterr().err == ""


def test_a_folder_too_long_for_sockets_is_replaced(
    machine_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = machine_environment / ("x" * 60)
    long.mkdir()
    os.environ["TMPDIR"] = str(long)
    set_up_machine()
    assert len(os.environ["RAY_TMPDIR"]) <= 40
    assert capsys.readouterr().err.startswith(f"temporary folder {long}: too long for Ray's sockets")


def test_where_home_is_read_only_ray_gets_a_token_of_its_own(
    machine_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_setup, "is_writable", lambda folder: folder != machine_environment)
    set_up_machine()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    del os.environ["RAY_AUTH_TOKEN"]
    (machine_environment / ".ray").mkdir()
    (machine_environment / ".ray" / "auth_token").write_text("a-token")
    set_up_machine()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_nobody_else_reads_rays_token(machine_environment: Path) -> None:
    folder = machine_environment / ".ray"
    set_up_machine()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # as Ray makes it
    set_up_machine()
    assert folder.stat().st_mode & 0o777 == 0o700
