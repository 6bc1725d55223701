"""The disk that forgets, by itself: only what was synced is there for certain."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import pytest

from chaos.shim import NoCompiler, Shim, build
from drivers import ended_after

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 60.0
PROGRAM = """
import os, sys
fd = os.open("data/file", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 8192)
os.fsync(fd)
os.pwritev(fd, [b"synced", b"!"], 0)
os.fdatasync(fd)
os.pwrite(fd, b"UNSYNC", 0)
os.pwrite(fd, b"more", 4096)
os.lseek(fd, 0, os.SEEK_END)
os.write(fd, b"grown")
other = os.open("data/other", os.O_WRONLY | os.O_CREAT)
os.write(other, b"kept")
os.fsync(other)
os.rename("data/other", "data/renamed")
os.ftruncate(other, 1)
print("ready", flush=True)
sys.stdin.read()
"""
FAILING = """
import os
fd = os.open("data/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"x")
for _ in range(2):
    try:
        os.fdatasync(fd)
        print("synced")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    try:
        library = build(tmp_path)
    except NoCompiler as missing:
        pytest.skip(f"NOT TRIED: {missing}")
    return Shim(library, tmp_path / "data", tmp_path / "journal", tmp_path / "control")


@contextmanager
def start(shim: Shim, program: str) -> Iterator[subprocess.Popen[str]]:
    """It is killed if it takes too long, and at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=shim.data.parent,
        env=os.environ | shim.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            with ended_after(process, WAIT_S):
                yield process
        finally:
            process.kill()


def opened_by_both(path: Path) -> IO[str]:
    """The writing end of a FIFO, once somebody opens it to read."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "w")
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        assert time.monotonic() < deadline, "nobody reads"
        time.sleep(0.01)


class LosesAll(random.Random):
    """Draws the worst: nothing stays that was not synced."""

    def random(self) -> float:
        return 0.0


def run_until_killed(shim: Shim, program: str) -> None:
    """Kill the program once it is ``ready``."""
    with start(shim, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()


def test_what_was_not_synced_is_lost_and_the_rest_is_kept(shim: Shim) -> None:
    run_until_killed(shim, PROGRAM)
    file, renamed = shim.data / "file", shim.data / "renamed"
    assert file.read_bytes()[:7] == b"UNSYNC!", "a killed process alone loses nothing"
    assert shim.lose_power(LosesAll(1)) > 0
    assert file.read_bytes() == b"synced!" + bytes(8192 - 7)
    assert renamed.read_bytes() == b"kept"
    assert shim.lose_power(LosesAll(1)) == 0, "nothing is left to lose"


def test_unsynced_writes_may_be_torn_into_states_the_file_had(shim: Shim) -> None:
    """Each sector is as it was after some number of writes, never a mixture within."""
    program = """
import os, sys
fd = os.open("data/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"0" * 2048)
os.fsync(fd)
for digit in b"123":
    os.pwrite(fd, bytes([digit]) * 2048, 0)
print("ready", flush=True)
sys.stdin.read()
"""
    seen = set()
    run_until_killed(shim, program)
    journal = {path: path.read_bytes() for path in shim.journal.iterdir()}
    for seed in range(40):
        for path, records in journal.items():
            path.write_bytes(records)
        (shim.data / "file").write_bytes(b"3" * 2048)
        shim.lose_power(random.Random(seed))
        text = (shim.data / "file").read_text(encoding="ascii")
        sectors = [text[at : at + 512] for at in range(0, 2048, 512)]
        assert all(sector == sector[0] * 512 for sector in sectors)
        seen.add("".join(sector[0] for sector in sectors))
    assert "0000" in seen
    assert any(len(set(state)) > 1 for state in seen), "some are torn"


OTHER_WAYS = """
import os, sys
def make(name, text=b"old"):
    fd = os.open("data/" + name, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, text)
    os.fsync(fd)
    return fd

fd = make("emptied")
os.close(fd)
os.close(os.open("data/emptied", os.O_WRONLY | os.O_TRUNC))

fd = make("reused")
os.pwrite(fd, b"unsynced", 0)
inode = os.fstat(fd).st_ino
os.close(fd)
os.unlink("data/reused")
for number in range(50):
    fd = make(f"successor-{number}", b"a new file")

fd = make("socket's number")
number = os.open("/dev/null", os.O_WRONLY)
os.write(number, b"so that it is known as foreign")
import ctypes
ctypes.CDLL(None).syscall(3, number)  # close, as libuv does it: not seen by the shim
again = os.open("data/number", os.O_RDWR | os.O_CREAT, 0o600)
assert again == number
os.write(again, b"unsynced")

with open("data/appended", "ab", buffering=0) as file:
    file.write(b"kept")
    os.fsync(file)
    file.write(b"lost")
print("ready", flush=True)
sys.stdin.read()
"""


def test_other_ways_to_write_are_seen_too(shim: Shim) -> None:
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        pytest.skip("NOT TRIED: the number of the system call close is known for Linux x86-64")
    run_until_killed(shim, OTHER_WAYS)
    shim.lose_power(LosesAll(1))
    found = {path.name: path.read_bytes() for path in shim.data.iterdir()}
    assert found["emptied"] == b"old"
    assert found["number"] == b""
    assert found["appended"] == b"kept"
    assert {found[f"successor-{number}"] for number in range(50)} == {b"a new file"}


WHILE_SYNCING = """
import os, sys, threading
fd = os.open("data/file", os.O_RDWR | os.O_CREAT, 0o600)
os.pwrite(fd, b"covered", 0)
sync = threading.Thread(target=os.fsync, args=(fd,))
sync.start()
sys.stdin.readline()
os.pwrite(fd, b"too late", 100)
print("written", flush=True)
sync.join()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_sync_covers_what_was_written_before_it_began(shim: Shim) -> None:
    environment = shim.environment()
    os.mkfifo(environment["CHAOS_CONTROL"])
    with start(shim, WHILE_SYNCING) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with opened_by_both(shim.control) as fault:  # opens once the sync looks for its faults
            process.stdin.write("write now\n")
            process.stdin.flush()
            assert process.stdout.readline() == "written\n"
            fault.write("slow 0")
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert shim.lose_power(LosesAll(1)) > 0
    assert (shim.data / "file").read_bytes() == b"covered"


def test_one_sync_fails_and_only_that_one(shim: Shim) -> None:
    shim.environment()
    shim.set_fault("fail /data/")
    with start(shim, FAILING) as process:
        output, _ = process.communicate()
    assert output.split() == ["5", "synced"]
    assert not shim.clear_fault(), "it has happened"


def test_a_fault_of_other_files_does_not_happen(shim: Shim) -> None:
    shim.environment()
    shim.set_fault("fail /elsewhere/")
    with start(shim, FAILING) as process:
        output, _ = process.communicate()
    assert output.split() == ["synced", "synced"]
    assert shim.clear_fault(), "it was still to come"
    assert not shim.clear_fault()


FULL = """
import os, sys
fd = os.open("data/file", os.O_RDWR | os.O_CREAT)
os.write(fd, b"room")
print("ready", flush=True)
for _ in sys.stdin:
    for attempt in (
        lambda: os.pwrite(fd, b"over", 0),
        lambda: os.pwrite(fd, b"grown", 0),
        lambda: os.pwritev(fd, [b"room", b"!"], 0),
        lambda: os.writev(fd, [b"more"]),
        lambda: os.write(os.open("data/new", os.O_WRONLY | os.O_CREAT), b"x"),
        lambda: os.posix_fallocate(fd, 0, 4096),
        lambda: os.fdatasync(fd),
    ):
        try:
            attempt()
            print("done", end=" ")
        except OSError as error:
            print(error.errno, end=" ")
    spaces = os.statvfs("data"), os.statvfs("data/file"), os.fstatvfs(fd), os.statvfs(".")
    print(*(space.f_bavail > 0 for space in spaces), flush=True)
"""


def test_a_full_disk_has_no_room_for_more_until_it_is_freed(shim: Shim) -> None:
    with start(shim, FULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        shim.fill()
        for expected in (
            "done 28 28 28 28 28 done False False False True\n",
            "done done done done done done done True True True True\n",
        ):
            process.stdin.write("try\n")
            process.stdin.flush()
            assert process.stdout.readline() == expected
            shim.make_room()
        process.stdin.close()
    assert (shim.data / "file").stat().st_size == 4096


def test_delayed_syncs_are_counted(shim: Shim) -> None:
    shim.environment()
    shim.set_fault("slow 1")
    with start(shim, FAILING) as process:
        output, _ = process.communicate()
    assert output.split() == ["synced", "synced"]
    assert shim.slowed_syncs() == 2


DIALLING = """
import socket, sys
for port in map(int, sys.argv[1:]):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        print(connection.recv(10).decode())
"""


def test_whoever_dials_is_led_elsewhere(shim: Shim) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        there = proxy.getsockname()[1]
        led = replace(shim, dial=f"{there - 7} 2 7")
        program = DIALLING.replace("sys.argv[1:]", repr([there - 7, other.getsockname()[1]]))
        with start(led, program) as process:
            for listening, said in (proxy, b"proxy"), (other, b"other"):
                listening.settimeout(WAIT_S)
                accepted, _ = listening.accept()
                with accepted:
                    accepted.sendall(said)
            output, _ = process.communicate()
    assert output.split() == ["proxy", "other"]
