"""What the bench starts it also ends, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from bench.peers import processes
from bench.peers.processes import Program, finished, running, until

from kvstore.errors import KVError, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); " + (
    "time.sleep(600)"
)


async def no() -> bool:
    return False


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_program_ends_with_its_context(tmp_path: Path) -> None:
    async with running("one", sys.executable, "-c", SLEEP, directory=tmp_path) as program:
        os.kill(program.pid, 0)
        assert not program.has_ended
    assert_gone(program.pid)


async def test_a_program_ends_when_we_are_cancelled(tmp_path: Path) -> None:
    started: asyncio.Future[Program] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with running("one", sys.executable, "-c", SLEEP, directory=tmp_path) as program:
            started.set_result(program)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    program = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_gone(program.pid)


async def test_a_program_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.peers.processes.END_WAIT_S", 0.05)

    async with running("one", sys.executable, "-c", STUBBORN, directory=tmp_path) as program:

        async def is_on() -> bool:
            return "on" in program.log.read_text()

        await until(is_on, [program])
    assert program.process.returncode == -signal.SIGKILL


async def test_the_words_of_a_program_that_ended_too_early_are_told(tmp_path: Path) -> None:
    line = (sys.executable, "-c", "raise SystemExit('port in use')")
    async with running("one", *line, directory=tmp_path) as program:
        with pytest.raises(Unavailable, match="one has ended: port in use"):
            await until(no, [program])


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    async with running("one", sys.executable, "-c", SLEEP, directory=tmp_path) as program:
        with pytest.raises(Unavailable, match=r"one is not ready in 0 s: it says nothing"):
            await until(no, [program], wait_s=0)


async def test_a_load_that_ends_badly_is_an_error() -> None:
    assert await finished(sys.executable, "-c", "print(7)", wait_s=60) == "7\n"
    with pytest.raises(KVError, match="ended with 1: no server"):
        await finished(sys.executable, "-c", "raise SystemExit('no server')", wait_s=60)
    with pytest.raises(KVError, match="cannot be started: No such file"):
        await finished("/no/such/program", wait_s=60)


async def test_a_load_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, start = tmp_path / "pid", processes._start

    async def is_told() -> bool:
        return told.exists() and bool(told.read_text())

    async def start_and_see(*arguments: Any) -> asyncio.subprocess.Process:
        """Its time to end begins when it is at work, however long a machine needs for that."""
        process = await start(*arguments)
        try:
            await until(is_told, [Program("it", process, told)])
        except Unavailable:
            await processes.end(process)
            raise
        return process

    monkeypatch.setattr(processes, "_start", start_and_see)
    line = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); {SLEEP}"
    with pytest.raises(Unavailable, match="has not ended after 0 s"):
        await finished(sys.executable, "-c", line, wait_s=0.1)
    assert_gone(int(told.read_text()))
