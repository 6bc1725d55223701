"""What runs under a process id, and signals that reach only that.

A pid file alone proves nothing: the process may be long gone and its id given to another.
So a process counts as ours only while its command line ends as ours does, and a signal goes
through a pidfd where the kernel has them, which cannot be reused between look and kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROC = Path("/proc")
_PF_EXITING = 0x4
_ENDING = "D"
"""It has no command line any more, yet may still hold its port and its lock."""
_LOOKS_MAX = 50
_LOOK_AGAIN_S = 0.001


class State(StrEnum):
    """What a node's process is doing, as a person would say it."""

    RUNNING = "running"
    PAUSED = "paused"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Process:
    """A process id and the end of the command line by which it is known as ours."""

    pid: int
    arguments: tuple[str, ...]

    def state(self) -> State:
        """Dead also means: a zombie, or a process that is not ours."""
        look = _look_proc if _PROC.joinpath("self", "stat").exists() else _look_ps
        seen = look(self.pid, self.arguments)
        if seen is None or seen in "ZX":
            return State.DEAD
        return State.PAUSED if seen in "Tt" else State.RUNNING

    def send(self, signal_: signal.Signals) -> bool:
        """Signal the process if it is alive and ours; whether it was."""
        try:
            return self._send_by_handle(signal_) if _HAS_PIDFD else self._send_by_id(signal_)
        except ProcessLookupError:
            return False

    def _send_by_handle(self, signal_: signal.Signals) -> bool:
        handle = os.pidfd_open(self.pid)
        try:
            if self.state() is State.DEAD:
                return False
            signal.pidfd_send_signal(handle, signal_)
        finally:
            os.close(handle)
        return True

    def _send_by_id(self, signal_: signal.Signals) -> bool:
        if self.state() is State.DEAD:
            return False
        os.kill(self.pid, signal_)
        return True


def _has_pidfd() -> bool:
    """Whether this kernel, and what confines us, allows handles of processes."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


_HAS_PIDFD = _has_pidfd()


def _look_proc(pid: int, arguments: Sequence[str]) -> str | None:
    """The state letter of Linux's ``/proc/PID/stat``, None when it is not ours or gone.

    A process has no command line for an instant after it was started, which is waited for,
    and again from the moment when it begins to end.
    """
    ours = [os.fsencode(argument) for argument in arguments]
    for _ in range(_LOOKS_MAX):
        try:
            command = _PROC.joinpath(str(pid), "cmdline").read_bytes()
            stat = _PROC.joinpath(str(pid), "stat").read_bytes()  # later: says why that is empty
        except OSError:
            return None
        fields = stat.rpartition(b")")[2].split()  # the name in parentheses may hold anything
        state, flags, threads = fields[0].decode("ascii"), int(fields[6]), int(fields[17])
        if flags & _PF_EXITING:
            return None if state in "ZX" and threads <= 1 else _ENDING
        if command:
            return state if command.rstrip(b"\0").split(b"\0")[-len(ours) :] == ours else None
        time.sleep(_LOOK_AGAIN_S)
    return None


def _look_ps(pid: int, arguments: Sequence[str]) -> str | None:
    """The same from ``ps``, which every Unix has."""
    with suppress(OSError):
        shown = subprocess.run(
            ["ps", "-ww", "-o", "stat=,args=", "-p", str(pid)],
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        stat, _, command = os.fsdecode(shown.stdout).strip().partition(" ")
        if stat and command.endswith(" ".join(arguments)):
            return stat[0]
    return None
