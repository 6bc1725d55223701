from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from crc32c import crc32c

from kvstore.errors import CorruptionError, DataDirectoryError, Refused
from kvstore.ids import NodeId
from kvstore.storage.files import OsFiles
from kvstore.storage.identity import IDENTITY_FILE, LOCK_FILE, Identity, Pin, open_identity

if TYPE_CHECKING:
    from pathlib import Path

N2 = NodeId("n2")
STEPS = ["create", "write", "sync", "rename", "sync_directory"]
"""How the identity file is replaced."""


def open_it(data_dir: Path, **changes: Any) -> Identity:
    return open_identity(
        data_dir, **{"cluster_id": "c", "node_id": NodeId("n1"), "facts": {"shards": "8"}} | changes
    )


def test_a_directory_keeps_its_id_and_pins(tmp_path: Path) -> None:
    first = open_it(tmp_path / "a" / "b")
    assert 0 < first.data_id < 1 << 64
    first.pin(N2, 7)
    first.pin(NodeId("n3"), (1 << 64) - 1, 5)
    first.pin(N2, 7)
    assert first.pins == {"n2": Pin(7), "n3": Pin((1 << 64) - 1, 5)}
    assert first.life == 0
    first.release()
    again = open_it(tmp_path / "a" / "b")
    assert (again.data_id, again.pins) == (first.data_id, first.pins)
    again.release()


def test_starts_are_counted(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        identity = open_it(tmp_path)
        assert identity.count_start() == count
        assert identity.starts == count
        identity.release()


def test_a_start_that_cannot_be_counted_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = open_it(tmp_path)
    identity.count_start()
    with monkeypatch.context() as patch:
        fail_at_step(patch, 1)
        with pytest.raises(OSError, match="injected"):
            identity.count_start()
    assert identity.starts == 1
    identity.release()


def test_two_directories_differ(tmp_path: Path) -> None:
    ids = set()
    for name in "abc":
        identity = open_it(tmp_path / name)
        ids.add(identity.data_id)
        identity.release()
    assert len(ids) == 3


@pytest.mark.parametrize(("data_id", "life"), [(8, 5), (8, 4), (7, 4), (7, 0)])
def test_a_pinned_peer_cannot_be_another(tmp_path: Path, data_id: int, life: int) -> None:
    identity = open_it(tmp_path)
    identity.pin(N2, 7, 5)
    with pytest.raises(Refused, match="n2"):
        identity.pin(N2, data_id, life)
    assert identity.pins == {"n2": Pin(7, 5)}
    identity.release()


def test_a_pin_gives_way_to_one_of_a_later_life(tmp_path: Path) -> None:
    identity = open_it(tmp_path)
    identity.pin(N2, 7)
    identity.pin(N2, 8, 1)
    identity.release()
    again = open_it(tmp_path)
    assert again.pins == {"n2": Pin(8, 1)}
    again.release()


def test_a_log_that_was_begun_is_missed_when_it_is_gone(tmp_path: Path) -> None:
    identity = open_it(tmp_path)
    identity.check_log()
    log = tmp_path / "wal"
    log.mkdir()
    (log / "0000000000000001.wal").touch()
    identity.begin_log()
    identity.begin_log()
    identity.check_log()
    identity.release()
    shutil.rmtree(log)
    again = open_it(tmp_path)
    with pytest.raises(CorruptionError, match=r"0000000000000001\.wal: offset 0: the log is gone"):
        again.check_log()
    again.release()


def test_the_first_format_is_still_read(tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "format": 1,
        "cluster_id": "c",
        "node_id": "n1",
        "data_id": 5,
        "facts": {"shards": "8"},
        "pins": {"n2": 7},
    }
    body = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    (tmp_path / IDENTITY_FILE).write_text(json.dumps(said | {"crc32c": crc32c(body)}))
    identity = open_it(tmp_path)
    assert (identity.data_id, identity.life, identity.pins) == (5, 0, {"n2": Pin(7)})
    identity.pin(NodeId("n3"), 8, 1)
    identity.release()
    again = open_it(tmp_path)
    assert (again.data_id, again.pins) == (5, {"n2": Pin(7), "n3": Pin(8, 1)})
    again.release()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    identity = open_it(tmp_path)
    with pytest.raises(DataDirectoryError, match=f"in use by another process.*{os.getpid()}"):
        open_it(tmp_path)
    identity.release()
    identity.release()
    open_it(tmp_path).release()


def test_another_process_that_dies_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from kvstore.storage.identity import open_identity;"
        "kept = open_identity(pathlib.Path(sys.argv[1]), cluster_id='c', node_id='n1');"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(DataDirectoryError, match=f"pid {holder.pid}"):
            open_it(tmp_path)
        holder.kill()
    open_it(tmp_path).release()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cluster_id": "other"}, "cluster c, the configuration says other"),
        ({"node_id": NodeId("n9")}, "node n1, the configuration says n9"),
        ({"facts": {"shards": "16"}}, "shards 8, the configuration says 16"),
        ({"facts": {"nodes": "n1"}}, "nodes n1 n2, the configuration says n1"),
    ],
)
def test_what_belongs_to_another_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    open_it(tmp_path, facts={"shards": "8", "nodes": "n1 n2"}).release()
    with pytest.raises(DataDirectoryError, match=words):
        open_it(tmp_path, **changes)
    open_it(tmp_path, facts={"nodes": "n1 n2", "added later": "x"}).release()


def rewrite(data_dir: Path, **changes: Any) -> None:
    path = data_dir / IDENTITY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "format 3, this version knows up to 2.*newer version"),
        ({"data_id": 5}, "checksum does not match.*restore"),
        ({"pins": {"n2": 5}}, "checksum does not match"),
        ({"crc32c": None}, "checksum does not match"),
    ],
)
def test_what_cannot_be_trusted_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    open_it(tmp_path).release()
    rewrite(tmp_path, **changes)
    with pytest.raises(DataDirectoryError, match=words):
        open_it(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"{", b"[]", b"{}", b"7", b'{"format": 1}', b"[" * 200_000],
    ids=lambda content: content[:20],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    open_it(tmp_path).release()
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="damaged") as refused:
            open_it(tmp_path)
        assert refused.value.is_repairable
    assert (tmp_path / IDENTITY_FILE).read_bytes() == content


def test_data_without_an_identity_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    with pytest.raises(DataDirectoryError, match="holds wal but no identity") as refused:
        open_it(tmp_path)
    assert refused.value.is_repairable
    assert not (tmp_path / IDENTITY_FILE).exists()


def test_what_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in [
        ("file", f"data directory {tmp_path}/file is not a directory"),
        ("file/data", f"the data directory cannot be used: {tmp_path}/file/data: Not a directory"),
    ]:
        with pytest.raises(DataDirectoryError) as refused:
            open_it(tmp_path / path)
        assert refused.value.message == said


def test_what_the_system_refuses_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(DataDirectoryError) as refused:
        open_it(tmp_path)
    said = f"the data directory cannot be used: {tmp_path}/lock: Is a directory"
    assert refused.value.message == said
    (tmp_path / "lock").rmdir()
    (tmp_path / IDENTITY_FILE).mkdir()
    with pytest.raises(DataDirectoryError) as refused:
        open_it(tmp_path)
    assert refused.value.message == f"{tmp_path}/{IDENTITY_FILE} cannot be read: Is a directory"


def test_a_crash_at_any_step_of_a_pin_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for crash_at in range(len(STEPS)):
        data_dir = tmp_path / str(crash_at)
        identity = open_it(data_dir)
        with monkeypatch.context() as patch:
            done = fail_at_step(patch, crash_at)
            with pytest.raises(OSError, match="injected"):
                identity.pin(N2, 7)
        assert done == STEPS[:crash_at]
        assert identity.pins == {}
        identity.release()
        again = open_it(data_dir)
        assert again.data_id == identity.data_id
        assert again.pins == ({"n2": Pin(7)} if crash_at > STEPS.index("rename") else {})
        again.release()


def test_a_crash_at_the_first_start_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for crash_at in range(len(["sync_directory", *STEPS])):
        data_dir = tmp_path / str(crash_at)
        with monkeypatch.context() as patch:
            fail_at_step(patch, crash_at)
            with pytest.raises(DataDirectoryError, match="injected"):
                open_it(data_dir)
        assert (data_dir / LOCK_FILE).exists() is (crash_at > 0)
        open_it(data_dir).release()


def fail_at_step(patch: pytest.MonkeyPatch, crash_at: int) -> list[str]:
    """The ``crash_at``-th disk operation fails; returns the names of those done before."""
    done: list[str] = []

    def stepping(name: str) -> Any:
        real = getattr(OsFiles, name)

        def step(*args: Any) -> Any:
            if len(done) == crash_at:
                raise OSError("injected")
            done.append(name)
            return real(*args)

        return step

    for name in STEPS:
        patch.setattr(OsFiles, name, stepping(name))
    return done
