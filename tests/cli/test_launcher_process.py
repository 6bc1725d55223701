from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import TYPE_CHECKING

import pytest

from kvstore.cli.launcher import process as processes
from kvstore.cli.launcher.process import Process, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARGUMENTS = ("node", "start", "--config", "/tmp/no such/n1/node.toml")
LOOKS = [
    pytest.param(
        processes._look_proc,
        id="proc",
        marks=pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc"),
    ),
    pytest.param(processes._look_ps, id="ps"),
]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, under a command line that ends as a node's does."""
    started = subprocess.Popen(
        [sys.executable, "-c", "input()", *ARGUMENTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield started
    started.kill()
    started.communicate()


def test_only_a_command_line_of_ours_counts(child: subprocess.Popen[bytes]) -> None:
    assert Process(child.pid, ARGUMENTS).state() is State.RUNNING
    another_node = (*ARGUMENTS[:-1], "/tmp/no such/n2/node.toml")
    assert Process(child.pid, another_node).state() is State.DEAD


@pytest.mark.parametrize("look", LOOKS)
def test_both_ways_of_looking_agree(
    child: subprocess.Popen[bytes], look: Callable[..., str | None]
) -> None:
    assert look(child.pid, ARGUMENTS)[0] in "SR"
    assert look(child.pid, ("node", "start", "--config", "/another")) is None
    child.kill()
    child.wait()
    assert look(child.pid, ARGUMENTS) is None


def test_a_reused_pid_is_never_signalled(child: subprocess.Popen[bytes]) -> None:
    stranger = Process(child.pid, ("node", "start", "--config", "/elsewhere/node.toml"))
    assert not stranger.send(SIGKILL)
    assert Process(child.pid, ARGUMENTS).state() is State.RUNNING


def test_pausing_is_seen(child: subprocess.Popen[bytes], eventually: Callable[..., None]) -> None:
    process = Process(child.pid, ARGUMENTS)
    assert process.send(SIGSTOP)
    eventually(lambda: process.state() is State.PAUSED)
    assert process.send(SIGCONT)
    eventually(lambda: process.state() is State.RUNNING)


def test_a_zombie_is_dead(child: subprocess.Popen[bytes], eventually: Callable[..., None]) -> None:
    process = Process(child.pid, ARGUMENTS)
    child.kill()  # and nobody waits for it
    eventually(lambda: process.state() is State.DEAD)
    assert not process.send(SIGKILL)


def test_without_handles_of_processes_the_id_is_used(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, Signals]] = []
    monkeypatch.setattr(processes, "_HAS_PIDFD", False)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    assert Process(child.pid, ARGUMENTS).send(SIGSTOP)
    assert not Process(child.pid, ("other",)).send(SIGSTOP)
    assert sent == [(child.pid, SIGSTOP)]
