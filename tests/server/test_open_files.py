"""How the files that a process may have are divided, and what is said of too few."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from kvstore.config import LimitsConfig
from kvstore.server.open_files import OpenFiles


@pytest.mark.parametrize("allowed", [64, 256, 1024, 4096, 20_000, 1 << 20])
def test_all_parts_together_are_no_more_than_is_allowed(allowed: int) -> None:
    files = OpenFiles.of(allowed, 4096)
    outsiders = files.clients + files.peers + files.contacts + files.strangers
    assert outsiders + files.engine < allowed
    assert min(files.clients, files.peers, files.contacts, files.strangers, files.engine) > 0


def test_of_the_usual_limit_the_engine_has_all_it_wants_and_the_clients_half_of_the_rest() -> None:
    files = OpenFiles.of(1024, 4096)
    assert (files.engine, files.clients, files.peers) == (256, 320, 160)


def test_with_enough_files_all_have_what_they_want() -> None:
    files = OpenFiles.of(1 << 20, 4096)
    limits = files.net_limits(LimitsConfig())
    assert limits.connections_max == 4096
    assert (limits.handshakes_max, limits.peer_connections_max) == (1024, 16_384)
    assert files.contact_limits().contacts_max == 256


def test_too_few_for_so_many_clients_are_told_of_once_with_what_would_be_enough(
    caplog: pytest.LogCaptureFixture,
) -> None:
    OpenFiles.of(1024, 320).warn(320)
    assert caplog.text == ""
    OpenFiles.of(1024, 4096).warn(4096)
    (record,) = caplog.records
    line = record.getMessage()
    assert "limits.connections_max is 4096, but at most 320 clients" in line
    assert "only 1024 open files" in line
    assert OpenFiles.of(8576, 4096).clients == 4096
    assert "needs 8576 " in line


def test_a_process_allows_itself_what_it_may() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 512 if most == resource.RLIM_INFINITY else min(512, most)
    program = (
        "import resource;"
        "from kvstore.server.open_files import OpenFiles, allow_many;"
        "from kvstore.config import LimitsConfig;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (64, {wanted}));"
        "allow_many();"
        "print(OpenFiles.here(LimitsConfig()).allowed)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(done.stdout) == wanted
