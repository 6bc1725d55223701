"""The disk that forgets, by itself: only what was synced is there for certain."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from chaos.shim import NoCompiler, Shim, build

if TYPE_CHECKING:
    from pathlib import Path

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


def start(shim: Shim, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=shim.data.parent,
        env=os.environ | shim.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class LosesAll(random.Random):
    def choice(self, options: tuple[float, ...]) -> float:
        return max(options)


def test_what_was_not_synced_is_lost_and_the_rest_is_kept(shim: Shim) -> None:
    with start(shim, PROGRAM) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    file, renamed = shim.data / "file", shim.data / "renamed"
    assert file.read_bytes()[:7] == b"UNSYNC!", "a killed process alone loses nothing"
    assert shim.lose_power(LosesAll(1)) > 0
    assert file.read_bytes() == b"synced!" + bytes(8192 - 7)
    assert renamed.read_bytes() == b"kept"
    assert shim.lose_power(LosesAll(1)) == 0, "nothing is left to lose"


def test_one_sync_fails_and_only_that_one(shim: Shim) -> None:
    shim.environment()
    shim.order("fail /data/")
    with start(shim, FAILING) as process:
        output, _ = process.communicate()
    assert output.split() == ["5", "synced"]


def test_an_order_for_other_files_is_not_obeyed(shim: Shim) -> None:
    shim.environment()
    shim.order("fail /elsewhere/")
    with start(shim, FAILING) as process:
        output, _ = process.communicate()
    assert output.split() == ["synced", "synced"]
    shim.countermand()
    assert not shim.control.exists()
