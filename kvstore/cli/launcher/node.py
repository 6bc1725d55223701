"""One node's process: start it detached, look at it, signal it, stop it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import TYPE_CHECKING

from kvstore.cli.launcher.layout import NodeFiles, write_atomically
from kvstore.cli.launcher.process import Process, State
from kvstore.errors import InvalidArgument, StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

POLL_S = 0.02
STOP_GRACE_S = 10.0
"""How long a node may take over SIGTERM before SIGKILL."""
KILL_GRACE_S = 5.0
_REASON_BYTES_MAX = 4096
_WARNING_BYTES_MAX = 1 << 20
"""A node that gets no leader writes on and on after it was told why."""
_WARNING = re.compile(r"\S+ \S+ (?:WARNING|ERROR|CRITICAL) +\S+ (.+)")
"""A line of a node's log, as :func:`kvstore.server.process.run` lays it out."""


@dataclass(slots=True)
class Node:
    """One node of a local cluster and, through its pid file, its process."""

    files: NodeFiles
    _child: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    """Ours if we started it: polled, so that it does not stay behind as a zombie."""
    _log_start: int = 0

    @property
    def id(self) -> str:
        """The node's name."""
        return self.files.id

    @property
    def arguments(self) -> tuple[str, ...]:
        """The end of the process's command line, by which it is recognised."""
        return ("node", "start", "--config", str(self.files.config_file))

    def process(self) -> Process | None:
        """The process last started, dead or alive; None before the first start."""
        try:
            pid = int(self.files.pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return Process(pid, self.arguments) if pid > 0 else None

    def state(self) -> State:
        """What the process does now."""
        process = self.process()
        state = State.DEAD if process is None else process.state()
        if self._child is not None:
            self._child.poll()
        return state

    def pid(self) -> int | None:
        """The process id while the process lives."""
        process = self.process()
        return process.pid if process and process.state() is not State.DEAD else None

    def start(self) -> None:
        """Start the process in a session of its own, so that no Ctrl-C of ours reaches it."""
        self.files.directory.mkdir(parents=True, exist_ok=True)
        with self.files.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "kvstore.cli", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.files.directory,
                start_new_session=True,
            )
        write_atomically(self.files.pid_file, f"{self._child.pid}\n")

    def check_started(self) -> None:
        """Notice a process that has already ended.

        Raises:
            StartupError: with the line in which the node said why.
        """
        if self.state() is State.DEAD:
            raise StartupError(f"{self.id} could not start: {self.last_words()}")

    def last_words(self) -> str:
        """The last line that the process wrote since it was started here."""
        for line in reversed(self._written(_REASON_BYTES_MAX)):
            if line.strip():
                said = line.strip().removeprefix("kv: ")
                return said.removeprefix(f"{self.id}: cannot start: ")
        return f"it wrote nothing to {self.files.log_file}"

    def last_warning(self) -> str | None:
        """What the process last warned of since it was started here, if it did."""
        for line in reversed(self._written(_WARNING_BYTES_MAX)):
            if found := _WARNING.match(line):
                return found[1].strip()
        return None

    def _written(self, bytes_max: int) -> list[str]:
        """The last lines of the log since the process was started here."""
        with suppress(OSError), self.files.log_file.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - bytes_max))
            return log.read().decode("utf-8", errors="replace").split("\n")
        return []

    def send(self, signal_: Signals) -> None:
        """Signal the live process.

        Raises:
            InvalidArgument: there is none.
        """
        process = self.process()
        if process is None or not process.send(signal_):
            raise InvalidArgument(f"{self.id} is not running (kv cluster restart {self.id})")

    def wait_for(self, state: State) -> None:
        """Wait until a signal has had its effect.

        Raises:
            Unavailable: it has not, in good time.
        """
        deadline = time.monotonic() + KILL_GRACE_S
        while (now := self.state()) is not state:
            if time.monotonic() >= deadline:
                raise Unavailable(f"{self.id} is {now}, not {state}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL; returns once the process is gone.

        Raises:
            InvalidArgument: it was not running.
            Unavailable: the kernel did not get rid of it.
        """
        self.send(SIGKILL)
        if wait_dead([self], time.monotonic() + KILL_GRACE_S):
            raise Unavailable(f"{self.id} is still there {KILL_GRACE_S:.0f} s after SIGKILL")


def stop(nodes: Iterable[Node], *, grace_s: float = STOP_GRACE_S) -> list[Node]:
    """SIGTERM to all at once, SIGKILL to those still there after ``grace_s``.

    Returns:
        The nodes that had to be killed.
    """
    alive = [node for node in nodes if node.state() is not State.DEAD]
    for node in alive:
        for signal_ in (SIGTERM, SIGCONT):  # a paused process takes SIGTERM when it wakes
            with suppress(InvalidArgument):
                node.send(signal_)
    late = wait_dead(alive, time.monotonic() + grace_s)
    for node in late:
        with suppress(InvalidArgument):
            node.send(SIGKILL)
    wait_dead(late, time.monotonic() + KILL_GRACE_S)
    return late


def wait_dead(nodes: Iterable[Node], deadline: float) -> list[Node]:
    """Wait until all are dead or ``deadline`` (monotonic seconds); those still alive."""
    alive = list(nodes)
    while True:
        alive = [node for node in alive if node.state() is not State.DEAD]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(POLL_S)
