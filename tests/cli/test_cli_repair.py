"""``kv repair`` as it is typed: what it says, asks and returns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cli_result import Result

    Kv = Callable[..., Result]

NODES = "".join(f'[[cluster.nodes]]\nid = "n{i}"\naddress = "127.0.0.1:{i}"\n' for i in range(1, 4))


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    return write_config(tmp_path, replicas=3)


def write_config(tmp_path: Path, *, replicas: int) -> str:
    path = tmp_path / "n1.toml"
    path.write_text(
        f'[node]\nid = "n1"\ndata_dir = "data"\n'
        f'[cluster]\nid = "c"\nshards = 2\nreplicas = {replicas}\n{NODES}'
    )
    return path.name


def test_a_directory_that_is_not_there(kv: Kv, config_file: str, tmp_path: Path) -> None:
    done = kv("repair", "--config", config_file, "--yes")
    assert done.code == 0
    assert done.out.decode().splitlines() == [
        "found: data directory data is not there: what it held is lost",
        "n1 is repaired; start it with: kv node start --config n1.toml",
    ]
    assert sorted(entry.name for entry in (tmp_path / "data").iterdir()) == [
        "identity.json",
        "lock",
    ]


def test_it_explains_and_asks(kv: Kv, config_file: str, tmp_path: Path) -> None:
    for answer in (b"n\n", b"\n"):
        declined = kv("repair", "--config", config_file, stdin=answer)
        assert declined.code == 130
        assert declined.out == b""
        assert "a majority of each shard's replicas must be alive" in declined.err
        assert "moved aside" in declined.err
        assert declined.err.endswith("kv: nothing was changed\n")
        assert not (tmp_path / "data").exists()
    accepted = kv("repair", "--config", config_file, "--discard", stdin=b"y\n")
    assert accepted.code == 0
    assert "removed for good" in accepted.err


def test_it_says_who_does_not_answer_even_if_nobody_is_asked(kv: Kv, config_file: str) -> None:
    done = kv("repair", "--config", config_file, "--yes")
    assert "kv: warning: no answer from n2 and n3: n1 cannot come back" in done.err


def test_where_nobody_tells_the_shards_of_one_that_joined_that_is_said(
    kv: Kv, tmp_path: Path
) -> None:
    (tmp_path / "n4.toml").write_text(
        '[node]\nid = "n4"\ndata_dir = "data"\naddress = "127.0.0.1:4"\n'
        '[cluster]\nid = "c"\nseeds = ["127.0.0.1:1"]\nnodes = []\n'
    )
    done = kv("repair", "--config", "n4.toml", "--yes")
    assert done.code == 0
    assert done.err == (
        "kv: warning: no other node answers: nobody knows whether they need the data of n4\n"
    )


def test_nobody_to_ask(kv: Kv, config_file: str, tmp_path: Path) -> None:
    for stdin in (b"", b"perhaps\n"):
        done = kv("repair", "--config", config_file, stdin=stdin)
        assert done.code == 2
        assert done.err.splitlines()[-2:] == [
            "Repair n1? [y/N] ",
            "kv: a repair needs an answer; --yes repairs without asking",
        ]
        assert not (tmp_path / "data").exists()


def test_it_asks_until_it_is_told(kv: Kv, config_file: str) -> None:
    done = kv("repair", "--config", config_file, stdin=b"perhaps\n\xff\nYES\n")
    assert done.code == 0
    assert done.err.count("Repair n1? [y/N] ") == 3


def start_kv(tmp_path: Path, *command: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, sys.executable, "-m", "kvstore.cli", "repair", "--config", "n1.toml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        bufsize=0,
        **options,
    )


@pytest.mark.usefixtures("config_file")
def test_stdin_that_is_closed_is_nobody(tmp_path: Path) -> None:
    with start_kv(tmp_path, "sh", "-c", 'exec "$@" <&-', "sh") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.endswith(b"\nkv: a repair needs an answer; --yes repairs without asking\n")


@pytest.mark.usefixtures("config_file")
def test_an_interrupt_is_said_on_a_line_of_its_own(tmp_path: Path) -> None:
    with start_kv(tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = b""
        while not said.endswith(b"[y/N] "):
            piece = process.stderr.read(1)
            assert piece, said
            said += piece
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (130, b"\nkv: interrupted\n")
    assert not (tmp_path / "data").exists()


def test_the_json_has_the_documented_fields(kv: Kv, config_file: str, tmp_path: Path) -> None:
    first = json.loads(kv("repair", "--config", config_file, "--yes", "-o", "json").out)
    assert first.keys() == {"node", "data_dir", "found", "life", "set_aside"}
    assert (first["node"], first["set_aside"]) == ("n1", None)
    (tmp_path / "data" / "identity.json").write_text("junk")
    again = json.loads(kv("repair", "--config", config_file, "--yes", "-o", "json").out)
    assert again["life"] >= first["life"]
    assert again["set_aside"] == f"data/damaged-{again['life']}"
    assert "identity.json is damaged" in again["found"]


def test_what_could_never_come_back(kv: Kv, tmp_path: Path) -> None:
    config_file = write_config(tmp_path, replicas=2)
    done = kv("repair", "--config", config_file, "--yes", "--force")
    assert done.code == 2
    assert "each shard has 2 replicas" in done.error_line


def test_a_directory_of_another_node(kv: Kv, config_file: str, tmp_path: Path) -> None:
    kv("repair", "--config", config_file, "--yes")
    path = tmp_path / config_file
    path.write_text(path.read_text().replace('id = "n1"\ndata_dir', 'id = "n2"\ndata_dir'))
    done = kv("repair", "--config", config_file, "--yes", "--force")
    assert done.code == 2
    assert "was made for node n1, the configuration says n2" in done.error_line


def test_bad_usage(kv: Kv) -> None:
    done = kv("repair")
    assert done.code == 2
    assert "'--config'" in done.error_line


def test_a_file_that_is_missing_is_named_once(kv: Kv) -> None:
    done = kv("repair", "--config", "missing.toml")
    assert done.code == 2
    assert done.error_line == "kv: missing.toml: cannot be read: No such file or directory"


def test_a_data_directory_that_is_a_file(kv: Kv, config_file: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for options in ((), ("--force",)):
        done = kv("repair", "--config", config_file, "--yes", *options)
        assert done.code == 2
        assert done.error_line == "kv: data directory data is not a directory"
