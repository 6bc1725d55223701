"""A damaged directory begins a new life; whatever interrupts that, nothing of the old counts."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from kvstore.errors import DataDirectoryError, StartupError
from kvstore.ids import LIFE_MAX, NodeId
from kvstore.storage import identity_file, map_file
from kvstore.storage.files import OsFiles
from kvstore.storage.identity import IDENTITY_FILE, Identity, Owner, Pin, open_identity
from kvstore.storage.identity_file import Content
from kvstore.storage.map_file import MAP_FILE
from kvstore.storage.renewal import PARTS, Renewal, Renewed, discard, open_renewal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWNER = Owner("c", "n1", {"shards": "8"})
NOW_S = 1_700_000_000
DIRECTORIES = [part for part in PARTS if part != MAP_FILE]
PEERS = {NodeId("n2"): Pin(7), NodeId("n3"): Pin(8, 5)}


def start(data_dir: Path) -> Identity:
    return open_identity(data_dir, cluster_id="c", node_id=NodeId("n1"), facts={"shards": "8"})


class UnsyncedFiles(OsFiles):
    """For what comes before a test begins."""

    def sync(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


def used(data_dir: Path) -> None:
    """A directory that a node has run in."""
    for part in DIRECTORIES:
        (data_dir / part).mkdir(parents=True)
        (data_dir / part / "data").write_text(f"old {part}")
    map_file.save(UnsyncedFiles(), data_dir, b"old map")
    (data_dir / "wal" / "0000000000000001.wal").touch()
    identity_file.save(UnsyncedFiles(), data_dir, Content(OWNER, Pin(11), PEERS, log_begun=True))


def look(data_dir: Path, **changes: Any) -> Renewal:
    return open_renewal(data_dir, changes.get("owner", OWNER), changes.get("files"))


def repair(data_dir: Path, wall_s: int = NOW_S, **changes: Any) -> Renewed:
    renewal = look(data_dir, **changes)
    try:
        return renewal.renew(wall_s)
    finally:
        renewal.release()


def assert_fresh(data_dir: Path) -> Identity:
    """A start takes it, and finds nothing of the old life."""
    identity = start(data_dir)
    identity.release()
    assert identity.life > 0
    assert not any((data_dir / part).exists() for part in PARTS)
    identity.check_log()
    return identity


def test_the_old_data_is_set_aside_and_the_new_life_begins_empty(tmp_path: Path) -> None:
    used(tmp_path)
    before = (tmp_path / IDENTITY_FILE).read_bytes()
    renewed = repair(tmp_path)
    assert renewed == Renewed(NOW_S, tmp_path / f"damaged-{NOW_S}")
    new = assert_fresh(tmp_path)
    assert (new.life, new.pins) == (NOW_S, PEERS)
    assert new.data_id != 11
    aside = tmp_path / f"damaged-{NOW_S}"
    assert (aside / IDENTITY_FILE).read_bytes() == before
    for part in DIRECTORIES:
        assert (aside / part / "data").read_text() == f"old {part}"
    assert map_file.load(aside) == b"old map"
    assert map_file.load(tmp_path) is None


def test_what_was_set_aside_can_be_discarded(tmp_path: Path) -> None:
    used(tmp_path)
    discard(repair(tmp_path))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [IDENTITY_FILE, "lock"]
    assert_fresh(tmp_path)


@pytest.mark.parametrize("wall_s", [5, NOW_S - 1, NOW_S, NOW_S + 1])
def test_each_life_is_later_than_the_one_before(tmp_path: Path, wall_s: int) -> None:
    used(tmp_path)
    first = repair(tmp_path)
    second = repair(tmp_path, wall_s)
    assert second.life == max(NOW_S + 1, wall_s)
    assert first.set_aside != second.set_aside
    assert assert_fresh(tmp_path).life == second.life


def test_an_unreadable_identity_takes_its_life_from_the_clock(tmp_path: Path) -> None:
    used(tmp_path)
    (tmp_path / IDENTITY_FILE).write_bytes(b"garbage")
    renewal = look(tmp_path)
    assert renewal.damage is not None
    assert "damaged" in renewal.damage.message
    renewal.release()
    repair(tmp_path)
    assert (tmp_path / f"damaged-{NOW_S}" / IDENTITY_FILE).read_bytes() == b"garbage"
    identity = assert_fresh(tmp_path)
    assert (identity.life, identity.pins) == (NOW_S, {})


def test_what_was_set_aside_before_tells_of_lives_too(tmp_path: Path) -> None:
    used(tmp_path)
    repair(tmp_path)
    (tmp_path / IDENTITY_FILE).write_bytes(b"garbage")
    assert repair(tmp_path, wall_s=5).life == NOW_S + 1


def test_data_without_an_identity(tmp_path: Path) -> None:
    used(tmp_path)
    (tmp_path / IDENTITY_FILE).unlink()
    renewal = look(tmp_path)
    assert renewal.damage is not None
    assert "holds wal but no identity" in renewal.damage.message
    renewal.release()
    repair(tmp_path)
    assert_fresh(tmp_path)


@pytest.mark.parametrize(("exists", "said"), [(True, "is empty"), (False, "is not there")])
def test_a_wiped_directory_has_nothing_to_set_aside(
    tmp_path: Path, exists: bool, said: str
) -> None:
    data_dir = tmp_path / "data"
    if exists:
        data_dir.mkdir()
    renewal = look(data_dir)
    assert renewal.damage is not None
    assert said in renewal.damage.message
    renewal.release()
    assert repair(data_dir) == Renewed(NOW_S, None)
    assert assert_fresh(data_dir).life == NOW_S


def test_a_map_alone_is_old_data_too(tmp_path: Path) -> None:
    map_file.save(OsFiles(), tmp_path, b"old map")
    with pytest.raises(DataDirectoryError, match=f"holds {MAP_FILE} but no identity"):
        start(tmp_path)
    renewal = look(tmp_path)
    assert renewal.damage is not None
    assert f"holds {MAP_FILE} but no identity" in renewal.damage.message
    renewal.release()
    repair(tmp_path)
    assert_fresh(tmp_path)
    assert map_file.load(tmp_path / f"damaged-{NOW_S}") == b"old map"


def test_a_lost_log_is_damage(tmp_path: Path) -> None:
    used(tmp_path)
    for path in (tmp_path / "wal").iterdir():
        path.unlink()
    renewal = look(tmp_path)
    assert renewal.damage is not None
    assert "0000000000000001.wal: offset 0: the log is gone" in renewal.damage.message
    renewal.release()


def test_a_healthy_directory_shows_no_damage(tmp_path: Path) -> None:
    used(tmp_path)
    renewal = look(tmp_path)
    assert (renewal.damage, renewal.life) == (None, 0)
    renewal.release()


@pytest.mark.parametrize(
    "owner", [Owner("other", "n1"), Owner("c", "n2"), Owner("c", "n1", {"shards": "16"})]
)
def test_somebody_elses_directory_is_left_alone(tmp_path: Path, owner: Owner) -> None:
    used(tmp_path)
    before = (tmp_path / IDENTITY_FILE).read_bytes()
    with pytest.raises(DataDirectoryError, match="was made for"):
        look(tmp_path, owner=owner)
    assert (tmp_path / IDENTITY_FILE).read_bytes() == before
    start(tmp_path).release()


@pytest.mark.parametrize("name", [IDENTITY_FILE, "engine"])
def test_data_of_another_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    used(tmp_path)
    if name != IDENTITY_FILE:
        (tmp_path / IDENTITY_FILE).unlink()
        shutil.rmtree(tmp_path / "wal")
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
        with pytest.raises(DataDirectoryError, match=f"{name} belongs to user .*: repair as that"):
            look(tmp_path)
    assert not (tmp_path / "lock").exists()
    repair(tmp_path)


def test_what_cannot_be_moved_is_noticed_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "ismount", lambda path: path.name == "wal")
        with pytest.raises(DataDirectoryError, match="wal is a mount point and cannot be moved"):
            repair(tmp_path)
    start(tmp_path).release()
    assert list(tmp_path.glob("damaged-*")) == []


def test_a_directory_of_other_things_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    renewal = look(tmp_path)
    assert renewal.damage is not None
    assert "holds lost+found but nothing of a node" in renewal.damage.message
    renewal.release()
    repair(tmp_path)
    assert_fresh(tmp_path)


def test_a_running_node_is_left_alone(tmp_path: Path) -> None:
    used(tmp_path)
    running = start(tmp_path)
    with pytest.raises(DataDirectoryError, match=f"in use by another process.*{os.getpid()}"):
        look(tmp_path)
    running.release()
    held = look(tmp_path)
    with pytest.raises(DataDirectoryError, match="in use by another process"):
        start(tmp_path)
    held.release()


def test_looking_makes_no_directory(tmp_path: Path) -> None:
    held = look(tmp_path / "data")
    assert held.damage is not None
    held.release()
    assert not (tmp_path / "data").exists()


def test_a_directory_that_was_made_since_it_was_missing_is_left_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    held = look(data_dir)
    running = start(data_dir)
    before = (data_dir / IDENTITY_FILE).read_bytes()
    with pytest.raises(DataDirectoryError, match="in use by another process"):
        held.renew(NOW_S)
    running.release()
    with pytest.raises(DataDirectoryError, match="was made meanwhile"):
        held.renew(NOW_S)
    held.release()
    assert (data_dir / IDENTITY_FILE).read_bytes() == before
    start(data_dir).release()


def test_a_clock_beyond_all_lives_is_refused(tmp_path: Path) -> None:
    used(tmp_path)
    with pytest.raises(StartupError, match="the clock says"):
        repair(tmp_path, LIFE_MAX + 1)
    start(tmp_path).release()


# -- crashes -----------------------------------------------------------------------------------


class Crash(OSError):
    """The process ends here."""


class CrashingFiles(OsFiles):
    """Does ``steps`` operations; at the next one the process ends, before or after it."""

    def __init__(self, steps: int, *, after: bool = False) -> None:
        self.left = steps
        self.after = after
        self.names: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("_") or not callable(found):
            return found

        def step(*arguments: Any) -> Any:
            if self.left == 0 and not self.after:
                raise Crash(name)
            result = found(*arguments)
            self.names.append(name)
            if self.left == 0:
                raise Crash(name)
            self.left -= 1
            return result

        return step


def damaged(data_dir: Path) -> None:
    used(data_dir)
    (data_dir / "wal" / "data").write_text("damaged")


def without_identity(data_dir: Path) -> None:
    used(data_dir)
    (data_dir / IDENTITY_FILE).unlink()


def unreadable(data_dir: Path) -> None:
    used(data_dir)
    (data_dir / IDENTITY_FILE).write_bytes(b"garbage")


def wiped(data_dir: Path) -> None:
    data_dir.mkdir()


def steps_of(data_dir: Path) -> list[str]:
    files = CrashingFiles(1 << 30)
    repair(data_dir, files=files)
    return files.names


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("state", [damaged, without_identity, unreadable, wiped])
def test_a_crash_at_any_step_leaves_the_old_node_or_a_fresh_one(
    tmp_path: Path, state: Callable[[Path], None], after: bool
) -> None:
    whole = tmp_path / "whole"
    state(whole)
    steps = steps_of(whole)
    assert len(steps) >= len(["create", "write", "sync", "close", "rename", "sync_directory"])
    for crash_at in range(len(steps)):
        data_dir = tmp_path / f"crash-{crash_at}"
        state(data_dir)
        before = {part: (data_dir / part).exists() for part in PARTS}
        with pytest.raises(Crash):
            repair(data_dir, files=CrashingFiles(crash_at, after=after))
        check_state(data_dir, before)
        finished = repair(data_dir, NOW_S + 100)
        identity = assert_fresh(data_dir)
        assert identity.life == finished.life >= NOW_S
        kept = {p for p in PARTS if any(data_dir.glob(f"damaged-*/{p}"))}
        assert kept == {part for part, was_there in before.items() if was_there}


def check_state(data_dir: Path, before: dict[str, bool]) -> None:
    """Old and whole, refused, or fresh; nothing else."""
    try:
        identity = start(data_dir)
    except DataDirectoryError as error:
        if not error.is_repairable:
            raise
        return
    identity.release()
    now = {part: (data_dir / part).exists() for part in PARTS}
    if identity.life:
        assert now == dict.fromkeys(PARTS, False)
    else:
        assert now == before
        assert not list(data_dir.glob("damaged-*/wal"))


def test_each_step_is_durable_before_the_next(tmp_path: Path) -> None:
    damaged(tmp_path)
    file_replaced = ["create", "write", "sync", "close", "rename", "sync_directory"]
    assert steps_of(tmp_path) == [
        *file_replaced,  # the old identity is kept
        *file_replaced,  # step 1
        *(["rename"] * len(PARTS)),  # step 2
        *(["sync_directory"] * 2),
        *file_replaced,  # step 3
    ]


def test_an_interrupted_repair_goes_on_in_the_same_life(tmp_path: Path) -> None:
    damaged(tmp_path / "whole")
    last = len(steps_of(tmp_path / "whole")) - 1
    data_dir = tmp_path / "data"
    damaged(data_dir)
    crash_at = last - len(["create", "write", "sync", "close", "rename", "sync_directory"])
    with pytest.raises(Crash):
        repair(data_dir, files=CrashingFiles(crash_at))
    with pytest.raises(DataDirectoryError, match="was interrupted; finish it"):
        start(data_dir)
    renewal = look(data_dir)
    assert renewal.damage is not None
    assert "interrupted" in renewal.damage.message
    renewal.release()
    assert repair(data_dir, NOW_S + 100).life == NOW_S
    assert_fresh(data_dir)
