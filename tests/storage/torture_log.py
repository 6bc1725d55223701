"""A real log to be tortured, a model of what it knows, and what may become of it.

The log is written once by the real writer, batch by batch, each acknowledged before the next
begins; a model that shares no code with the log notes what each group knows after every
batch. ``Torn`` is how a crash leaves the same log in the middle of one batch more.

Damaged copies are read in one of two ways: :meth:`Case.end` opens a damaged directory as a
node does, twice; :func:`judge` gives damaged bytes to the same recovery without a disk under
it, about a thousand times faster than the kernel could sync them.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torture_layout import Field, fields_of

from kvstore.config import WalConfig
from kvstore.errors import CorruptionError, DataDirectoryError, StartupError
from kvstore.storage import records
from kvstore.storage.files import OsFiles
from kvstore.storage.recovery import Recovery
from kvstore.storage.wal import RecoveredLog, Wal, open_wal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from kvstore.storage.files import Files

CONFIG = WalConfig(segment_bytes=4096, live_bytes_max=1 << 20, reserve_bytes=2048)
CLUSTER, NODE = "the-cluster", "n1"
GROUPS = (1, 2, 3)
LOGGER = "kvstore.storage"

Mark = tuple[int, int, bytes]
Entry = tuple[int, int, int, bytes]
State = dict[int, tuple[int, int, Mark | None, list[Entry], int]]
"""By group: term, vote, mark, entries, replica."""


@dataclass
class Model:
    """One group, as the record formats' documentation has it."""

    term: int = 0
    vote: int = 0
    mark: Mark | None = None
    entries: list[Entry] = field(default_factory=list)
    replica: int = 0


class Workload:
    """Draws batches of records and keeps the model in step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.models = {group: Model() for group in GROUPS}
        self.stays = 0

    def batch(self) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(self.random.randint(1, 4)):
            found += self.some(self.random.choice(GROUPS))
        return found

    def some(self, group: int) -> list[bytes]:
        model, rng = self.models[group], self.random
        last = len(model.entries)
        low = model.mark[0] if model.mark else 0
        draw = rng.random()
        if draw < 0.02:
            return [self.come(group)]
        if draw < 0.03:
            self.models[group] = Model()
            return [records.encode_replica(group, 0)]
        if draw < 0.15:
            model.term, model.vote = model.term + 1, rng.randint(0, 3)
            return [records.encode_hard_state(group, model.term, model.vote)]
        if draw < 0.25 and last > low:
            index = rng.randint(low + 1, last)
            model.mark = (index, model.entries[index - 1][1], rng.randbytes(12))
            return [records.encode_mark(group, *model.mark)]
        if draw < 0.3 and last > low:
            index = rng.randint(low + 1, last)
            del model.entries[index - 1 :]
            return [records.encode_truncation(group, index)]
        if draw < 0.4 and last > low:
            return [self.entry(group, rng.randint(low + 1, last))]
        return [self.entry(group, last + 1 + more) for more in range(rng.randint(1, 3))]

    def come(self, group: int) -> bytes:
        """It may be here already: then as another replica."""
        self.stays += 1
        self.models[group] = Model(replica=self.stays << 16 | 1)
        return records.encode_replica(group, self.models[group].replica)

    def entry(self, group: int, index: int, payload: bytes | None = None) -> bytes:
        model, rng = self.models[group], self.random
        kind = rng.randint(0, 2)
        if payload is None:
            payload = rng.choice((b"", b"\0" * 40, rng.randbytes(rng.randint(1, 60))))
            if rng.random() < 0.03:
                payload = rng.randbytes(1500)
        del model.entries[index - 1 :]
        model.entries.append((index, model.term, kind, payload))
        return records.encode_entry(group, index, model.term, kind, payload)

    def one_of_each(self) -> list[bytes]:
        """A batch with every type of record that a caller can append."""
        group = GROUPS[0]
        replica = self.come(group)
        model = self.models[group]
        model.term, model.vote = model.term + 1, 2
        vote = records.encode_hard_state(group, model.term, model.vote)
        first = len(model.entries) + 1
        entries = [self.entry(group, first + more, b"value %d" % more) for more in range(3)]
        model.mark = (first, model.term, b"the configuration")
        mark = records.encode_mark(group, *model.mark)
        truncation = records.encode_truncation(group, first + 2)
        del model.entries[first + 1 :]
        return [replica, vote, *entries, mark, truncation]

    def state(self) -> State:
        return {
            group: (model.term, model.vote, model.mark, list(model.entries), model.replica)
            for group, model in copy.deepcopy(self.models).items()
            if model != Model()
        }


# -- writing it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A log's files as a crash would leave them, and what it knew after each batch."""

    directory: Path
    states: list[State]

    @property
    def final(self) -> State:
        return self.states[-1]

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.wal"))

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.segments()}

    def layout(self, segment: Path) -> list[Field]:
        return fields_of(segment.read_bytes())

    def batch_starts(self) -> list[int]:
        """Where the batches of the last segment stand."""
        return [at.start for at in self.layout(self.segments()[-1]) if at.name == "BATCH.length"]


def used_bytes(data: bytes) -> int:
    """Up to where a segment was written: every batch ends in a byte that is not zero."""
    return len(data.rstrip(b"\0"))


async def open_log(
    directory: Path,
    *,
    files: Files | None = None,
    applied: Mapping[int, int] | None = None,
    cluster: str = CLUSTER,
    node: str = NODE,
) -> tuple[Wal, dict[int, RecoveredLog]]:
    wal, logs = await open_wal(
        directory,
        cluster_id=cluster,
        node_id=node,
        config=CONFIG,
        on_fatal=_fatal,
        on_disk_full=lambda full: None,
        applied=applied,  # type: ignore[arg-type]  # plain numbers for groups and indexes
        files=files,
    )
    return wal, {int(group): found for group, found in logs.items()}


def _fatal(error: BaseException) -> None:
    raise error


async def append(wal: Wal, batch: list[bytes]) -> None:
    durable = asyncio.Event()
    wal.append(batch, durable.set)
    await asyncio.wait_for(durable.wait(), 10)


class Photographer(OsFiles):
    """Takes a picture of the directory after the next write and before its sync."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.picture: Path | None = None

    def sync_data(self, fd: int) -> None:
        if self.picture is not None:
            shutil.copytree(self._directory, self.picture)
            self.picture = None
        super().sync_data(fd)


async def write(root: Path, *, batches: int, seed: int) -> tuple[Written, Written, Written]:
    """Write ``batches`` one by one, and one of each record at the end.

    The result: the log as it is while still open, the same with one batch written and not
    yet synced, and the log as a clean close leaves it.
    """
    live = root / "live"
    photographer = Photographer(live)
    wal, logs = await open_log(live, files=photographer)
    assert logs == {}
    workload = Workload(seed)
    states = [workload.state()]
    for number in range(batches):
        await append(wal, workload.one_of_each() if number == batches - 2 else workload.batch())
        states.append(workload.state())
    open_image = Written(Path(shutil.copytree(live, root / "open")), list(states))
    photographer.picture = root / "unsynced"
    large = [workload.entry(2, len(workload.models[2].entries) + 1, workload.random.randbytes(900))]
    await append(wal, large)
    states.append(workload.state())
    await wal.close()
    closed = Written(Path(shutil.copytree(live, root / "closed")), list(states))
    return open_image, Written(root / "unsynced", states), closed


# -- reading it -----------------------------------------------------------------------------


def state_of(logs: Mapping[int, RecoveredLog]) -> State:
    return {
        int(group): (
            found.term,
            found.vote,
            None if found.mark is None else (found.mark[0], found.mark[1], found.mark[2]),
            [(int(index), term, kind, bytes(data)) for index, term, kind, data in found.entries],
            found.replica,
        )
        for group, found in logs.items()
        if found != RecoveredLog(end=found.end)
    }


async def recover(directory: Path) -> State:
    """Open the log and close it again; the state that was found."""
    wal, logs = await open_log(directory)
    await wal.close()
    return state_of(logs)


async def recover_or_refuse(directory: Path) -> State | StartupError:
    try:
        return await recover(directory)
    except (CorruptionError, DataDirectoryError) as error:
        return error


class NoDisk(OsFiles):
    """Recovery may write what it likes: nothing happens."""

    def create(self, path: Path) -> int:
        return -1

    def open(self, path: Path) -> int:
        return -1

    def allocate(self, fd: int, size: int) -> None: ...

    def truncate(self, fd: int, size: int) -> None: ...

    def write(self, fd: int, pieces: Sequence[bytes], offset: int) -> None: ...

    def sync_data(self, fd: int) -> None: ...

    def sync(self, fd: int) -> None: ...

    def close(self, fd: int) -> None: ...

    def sync_directory(self, path: Path) -> None: ...


def judge(contents: Mapping[str, bytes]) -> State | StartupError:
    """What recovery makes of segments with these contents, in the order of their names."""
    nowhere = Path("nowhere")
    recovery = Recovery(nowhere, NoDisk(), CONFIG, cluster_id=CLUSTER, node_id=NODE, applied={})
    try:
        for name in sorted(contents):
            recovery.read(int(Path(name).stem), nowhere / name, contents[name])
        _, logs = recovery.finish()
    except (CorruptionError, DataDirectoryError) as error:
        check_refusal(error)
        return error
    return state_of({int(group): found for group, found in logs.items()})


def check_refusal(error: StartupError) -> None:
    """One line; of damage the file and where in it."""
    assert "\n" not in str(error)
    assert ".wal" in str(error)
    if isinstance(error, CorruptionError):
        assert Path(error.file).suffix == ".wal"
        assert 0 <= error.offset <= 2 * CONFIG.segment_bytes
        assert str(error).startswith(f"{error.file}: offset {error.offset}: ")


class Case:
    """Copies of a written log, to be damaged and then opened."""

    def __init__(self, written: Written, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, LOGGER)
        self.written = written
        self._root = root
        self._caplog = caplog
        self._count = 0

    def copy(self) -> Path:
        self._count += 1
        return Path(shutil.copytree(self.written.directory, self._root / str(self._count)))

    def said(self) -> str:
        """What was logged since the last question."""
        text = "\n".join(record.getMessage() for record in self._caplog.records)
        self._caplog.clear()
        return text

    async def end(self, directory: Path) -> State | StartupError:
        """Open the damaged log twice: both times it ends the same way."""
        first, second = [await recover_or_refuse(directory) for _ in range(2)]
        assert str(first) == str(second), "what was dropped came back, or more went"
        if isinstance(first, StartupError):
            check_refusal(first)
            assert str(directory) in str(first)
        shutil.rmtree(directory)
        return first

    async def is_refused(self, directory: Path, what: str = "") -> StartupError:
        end = await self.end(directory)
        assert isinstance(end, StartupError), what or "something is gone and nothing was said"
        return end

    async def is_complete(self, directory: Path) -> None:
        assert await self.end(directory) == self.written.final
