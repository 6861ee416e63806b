"""What a machine lacks for hosts is said, with what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from . import hosts


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert hosts.why_not() == "hosts are Linux namespaces; this is darwin"


def test_missing_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ip" else name)
    assert hosts.why_not() == "ip not found; install iproute2 and util-linux"


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "sudo make test-cluster" in str(hosts.why_not())


@pytest.mark.parametrize("code, expected", [(0, None), (1, "unshare failed: Operation not permitted")])
def test_no_namespaces(monkeypatch: pytest.MonkeyPatch, code: int, expected: str | None) -> None:
    done = subprocess.CompletedProcess([], code, "", "unshare failed: Operation not permitted\n")
    monkeypatch.setattr(shutil, "which", str)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    found = hosts.why_not()
    assert (found is None) if expected is None else (expected in str(found) and "--privileged" in str(found))


def test_a_folder_in_tmp_stays_visible(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.getbasetemp()
    said = hosts._mounts(shared / "host1", [shared, shared])
    if shared.is_relative_to("/tmp"):
        assert said.count(f"mount --bind {shared} ") == 1
    assert said.splitlines()[-1] == f"mount --rbind {shared}/host1/tmp /tmp"
