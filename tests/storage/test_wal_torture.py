"""What is done to a log's files ends in full recovery or a refusal, never in a silent loss.

A log of a few hundred mixed records in several segments is written once, and a model that
shares no code with the log notes what each group knew after every batch. Then its files are
cut, flipped, zeroed, doubled and deleted in copies. Every case must end in one of:

* everything is there;
* a refusal that names one of the files and an offset;
* in the last segment only: everything up to a batch is there, and a log line says so.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvstore.config import WalConfig
from kvstore.errors import CorruptionError, StartupError
from kvstore.storage import records
from kvstore.storage.wal import Wal, open_wal

CONFIG = WalConfig(segment_bytes=8192, live_bytes_max=1 << 20, reserve_bytes=2048)
GROUPS = (1, 2, 3)
SECTOR = 512
CLOSE_BYTES = records.BATCH_HEAD_BYTES
LOGGER = "kvstore.storage"

Mark = tuple[int, int, bytes]
State = dict[int, tuple[int, int, Mark | None, list[tuple[int, int, int, bytes]]]]


@dataclass
class Model:
    """One group, as the record formats' documentation has it."""

    term: int = 0
    vote: int = 0
    mark: Mark | None = None
    entries: list[tuple[int, int, int, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Written:
    """A log's files as a crash would leave them, and what it knew after each batch."""

    directory: Path
    states: list[State]

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.wal"))


class Workload:
    """Draws batches of records and keeps the model in step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.models = {group: Model() for group in GROUPS}

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
        return [self.entry(group, len(model.entries) + 1) for _ in range(rng.randint(1, 3))]

    def entry(self, group: int, index: int) -> bytes:
        model, rng = self.models[group], self.random
        kind = rng.randint(0, 2)
        payload = rng.choice((b"", b"\0" * 40, rng.randbytes(rng.randint(1, 60))))
        if rng.random() < 0.03:
            payload = rng.randbytes(1500)
        del model.entries[index - 1 :]
        model.entries.append((index, model.term, kind, payload))
        return records.encode_entry(group, index, model.term, kind, payload)

    def state(self) -> State:
        return {
            group: (model.term, model.vote, model.mark, list(model.entries))
            for group, model in copy.deepcopy(self.models).items()
            if model != Model()
        }


async def recover(directory: Path) -> State:
    """Open the log and close it again; the state that was found."""
    wal, logs = await open_wal(
        directory,
        cluster_id="c",
        node_id="n1",
        config=CONFIG,
        on_fatal=_fatal,
        on_disk_full=lambda full: None,
    )
    await wal.close()
    return {
        group: (
            log.term,
            log.vote,
            None if log.mark is None else (log.mark[0], log.mark[1], log.mark[2]),
            [(int(index), term, kind, bytes(data)) for index, term, kind, data in log.entries],
        )
        for group, log in logs.items()
        if (log.term, log.vote, log.mark, log.entries) != (0, 0, None, [])
    }


async def recover_or_refuse(directory: Path) -> State | CorruptionError:
    try:
        return await recover(directory)
    except CorruptionError as error:
        return error


async def append(wal: Wal, batch: list[bytes]) -> None:
    durable = asyncio.Event()
    wal.append(batch, durable.set)
    await asyncio.wait_for(durable.wait(), 10)


def _fatal(error: BaseException) -> None:
    raise error


async def write(directory: Path, image: Path, *, batches: int, seed: int) -> list[State]:
    """Write ``batches`` one by one, and take ``image`` while the log is still open."""
    wal, logs = await open_wal(
        directory,
        cluster_id="c",
        node_id="n1",
        config=CONFIG,
        on_fatal=_fatal,
        on_disk_full=lambda full: None,
    )
    assert logs == {}
    workload = Workload(seed)
    states = [workload.state()]
    for _ in range(batches):
        await append(wal, workload.batch())
        states.append(workload.state())
    shutil.copytree(directory, image)
    await wal.close()
    return states


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("written")
    states = asyncio.run(write(root / "live", root / "image", batches=110, seed=7))
    found = Written(root / "image", states)
    assert len(found.segments()) >= 3
    return found


class Case:
    """A copy of the written log, to be damaged and then opened."""

    def __init__(self, written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.written = written
        self.root = tmp_path
        self.caplog = caplog
        self.count = 0

    def copy(self) -> Path:
        self.count += 1
        return Path(shutil.copytree(self.written.directory, self.root / str(self.count)))

    async def end(self, directory: Path, *, may_lose: bool) -> str:
        """Open the damaged log and hold it to the three ends; which one it was."""
        self.caplog.clear()
        state = await recover_or_refuse(directory)
        if isinstance(state, CorruptionError):
            assert Path(state.file).suffix == ".wal"
            assert 0 <= state.offset <= CONFIG.segment_bytes
            shutil.rmtree(directory)
            return "refused"
        if state != self.written.states[-1]:
            assert may_lose, "records are gone and nothing was said"
            assert state in self.written.states, "a state that never was"
            assert self.caplog.records, "records are gone and the log is silent"
        again = await recover(directory)
        assert again == state, "what was dropped came back, or more went"
        shutil.rmtree(directory)
        return "complete" if state == self.written.states[-1] else "cut"


@pytest.fixture
def case(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Case:
    caplog.set_level(logging.WARNING, LOGGER)
    return Case(written, tmp_path, caplog)


def beyond_marks(state: State) -> State:
    return {
        group: (term, vote, mark, [entry for entry in entries if not mark or entry[0] > mark[0]])
        for group, (term, vote, mark, entries) in state.items()
    }


def used_bytes(path: Path) -> int:
    return len(path.read_bytes().rstrip(b"\0"))


def offsets(size: int, *, count: int, seed: int) -> list[int]:
    """Some offsets below ``size``: the first ones, the last ones and a fresh draw between."""
    edge = range(min(70, size))
    middle = random.Random(seed).sample(range(size), min(count, size))
    return sorted({*edge, *middle, *(size - 1 - offset for offset in edge)})


async def test_the_image_of_a_crash_is_recovered_whole(case: Case) -> None:
    assert await case.end(case.copy(), may_lose=False) == "complete"


async def test_the_last_segment_cut_anywhere(case: Case) -> None:
    last = case.written.segments()[-1]
    for offset in offsets(used_bytes(last), count=60, seed=1):
        directory = case.copy()
        (directory / last.name).write_bytes(last.read_bytes()[:offset])
        await case.end(directory, may_lose=True)


async def test_an_earlier_segment_cut_anywhere(case: Case) -> None:
    for segment in case.written.segments()[:-1]:
        for offset in offsets(used_bytes(segment), count=20, seed=2)[::4]:
            directory = case.copy()
            (directory / segment.name).write_bytes(segment.read_bytes()[:offset])
            end = await case.end(directory, may_lose=False)
            # Only the record that closes a segment can be spared: the next one follows on.
            assert end == "refused" or offset >= used_bytes(segment) - CLOSE_BYTES


@pytest.mark.parametrize("which", [0, 1, -1])
async def test_any_flipped_bit_is_refused_and_none_changes_a_value(case: Case, which: int) -> None:
    """Also in the very last batch: a flip leaves no sector of zeros, so nothing tore it."""
    segment = case.written.segments()[which]
    for offset in offsets(used_bytes(segment), count=60, seed=3)[::2]:
        directory = case.copy()
        data = bytearray(segment.read_bytes())
        data[offset] ^= 1 << (offset % 8)
        (directory / segment.name).write_bytes(data)
        end = await case.end(directory, may_lose=False)
        in_close = which != -1 and offset >= used_bytes(segment) - CLOSE_BYTES
        assert end == ("complete" if in_close else "refused"), (segment.name, offset)


async def test_a_zeroed_tail_of_the_last_segment_is_torn(case: Case) -> None:
    last = case.written.segments()[-1]
    for offset in offsets(used_bytes(last), count=60, seed=4)[::2]:
        directory = case.copy()
        data = last.read_bytes()
        (directory / last.name).write_bytes(data[:offset] + bytes(len(data) - offset))
        await case.end(directory, may_lose=True)


async def test_a_zeroed_sector_before_the_last_batch_is_refused(case: Case) -> None:
    for segment in case.written.segments():
        data = segment.read_bytes()
        for sector in range(0, used_bytes(segment) - 4 * SECTOR, SECTOR):
            directory = case.copy()
            holed = data[:sector] + bytes(SECTOR) + data[sector + SECTOR :]
            (directory / segment.name).write_bytes(holed)
            assert await case.end(directory, may_lose=False) == "refused", (segment.name, sector)


async def test_a_deleted_segment_is_missed(case: Case) -> None:
    for segment in case.written.segments()[1:]:
        directory = case.copy()
        (directory / segment.name).unlink()
        assert await case.end(directory, may_lose=False) == "refused", segment.name


async def test_a_deleted_first_segment_takes_nothing_beyond_the_marks(case: Case) -> None:
    """What it held up to the marks is the engine's to have or to miss: it might be released."""
    directory = case.copy()
    (directory / case.written.segments()[0].name).unlink()
    state = await recover_or_refuse(directory)
    if isinstance(state, CorruptionError):
        assert Path(state.file) == directory / case.written.segments()[1].name
    else:
        assert beyond_marks(state) == beyond_marks(case.written.states[-1])


async def test_a_segment_that_a_crash_left_open_is_closed_so_that_the_next_is_missed(
    case: Case,
) -> None:
    *_, before, last = case.written.segments()
    directory = case.copy()
    data = before.read_bytes()
    (directory / before.name).write_bytes(data[:-CLOSE_BYTES] + bytes(CLOSE_BYTES))
    assert await recover(directory) == case.written.states[-1]
    assert (directory / before.name).stat().st_size == len(data)
    (directory / last.name).unlink()
    assert await case.end(directory, may_lose=False) == "refused"


async def test_a_doubled_segment_is_refused(case: Case) -> None:
    segments = case.written.segments()
    following = int(segments[-1].stem) + 1
    for segment in segments:
        directory = case.copy()
        shutil.copy(segment, directory / f"{following:0{len(segment.stem)}d}.wal")
        assert await case.end(directory, may_lose=False) == "refused", segment.name


async def test_two_segments_that_changed_names_are_refused(case: Case) -> None:
    first, second = case.written.segments()[:2]
    directory = case.copy()
    shutil.copy(first, directory / second.name)
    shutil.copy(second, directory / first.name)
    assert await case.end(directory, may_lose=False) == "refused"


@pytest.mark.parametrize(("cluster", "node"), [("other", "n1"), ("c", "n2")])
async def test_the_log_of_another_is_refused(case: Case, cluster: str, node: str) -> None:
    with pytest.raises(StartupError, match=cluster if cluster != "c" else node):
        await open_wal(
            case.copy(),
            cluster_id=cluster,
            node_id=node,
            config=CONFIG,
            on_fatal=_fatal,
            on_disk_full=lambda full: None,
        )


@pytest.mark.parametrize("seed", range(8))
async def test_a_log_goes_on_after_every_crash(seed: int, tmp_path: Path) -> None:
    """Several lives: none ends with a close, each in the middle of a write."""
    rng = random.Random(seed)
    live, workload = tmp_path / "0", Workload(seed)
    for life in range(5):
        wal, _ = await open_wal(
            live,
            cluster_id="c",
            node_id="n1",
            config=CONFIG,
            on_fatal=_fatal,
            on_disk_full=lambda full: None,
        )
        for _ in range(rng.randint(0, 25)):
            await append(wal, workload.batch())
        before = Path(shutil.copytree(live, tmp_path / f"before{life}"))
        unfinished = copy.deepcopy(workload)
        await append(wal, unfinished.batch())
        after = Path(shutil.copytree(live, tmp_path / str(life + 1)))
        await wal.close()
        if tear(before, after, rng):
            workload = unfinished
        live = after
        tried = Path(shutil.copytree(live, tmp_path / f"try{life}"))
        assert await recover(tried) == workload.state()
        assert await recover(tried) == workload.state()


def tear(before: Path, after: Path, rng: random.Random) -> bool:
    """Take some sectors of the last write back; whether it is whole all the same."""
    last = max(after.glob("*.wal"))
    if not (before / last.name).exists():
        return True
    old, new = (before / last.name).read_bytes(), bytearray((after / last.name).read_bytes())
    written = [
        at for at in range(0, len(new), SECTOR) if old[at : at + SECTOR] != new[at : at + SECTOR]
    ]
    lost = rng.sample(written, rng.randint(0, len(written)))
    for at in lost:
        new[at : at + SECTOR] = old[at : at + SECTOR]
    last.write_bytes(new)
    return not lost
