"""The write-ahead log: what is durable, what a start believes, what may go."""

from __future__ import annotations

from mutants.catalogue.model import mutant

LOG = (
    mutant(
        "does-not-sync",
        "acknowledged means synced (DESIGN section 1)",
        ("storage/segments.py", "sync_data(self._files, active.fd, active.segment.path)", "pass"),
    ),
    mutant(
        "goes-on-after-a-failed-sync",
        "a failed sync ends the process (DESIGN section 6)",
        (
            "storage/files.py",
            '        raise _failed("fdatasync", path, error) from error',
            "        pass",
        ),
    ),
    mutant(
        "takes-damage-for-a-torn-write",
        "only what a crash explains is dropped at the end of the log",
        (
            "storage/scan.py",
            'raise self._corrupt("a damaged record, which no torn write explains", bad)',
            "return",
        ),
    ),
    mutant(
        "does-not-check-checksums",
        "every record is held against its checksum",
        ("storage/records.py", " or crc32c(data[start:end]) != checksum:", ":"),
    ),
    mutant(
        "releases-what-is-not-covered",
        "a segment goes when the flushed state covers its entries",
        (
            "storage/segment_files.py",
            "index <= covered.get(group, 0) for",
            "True for",
        ),
    ),
    mutant(
        "replays-what-was-replaced",
        "an entry replaces all from its index on (Raft §5.3)",
        (
            "storage/replay.py",
            "        _cut(log, index)\n        payload",
            "        if index <= log.end:\n            return None\n        payload",
        ),
    ),
    mutant(
        "starts-a-segment-without-votes",
        "a segment begins with every group's term and vote",
        (
            "storage/ledger.py",
            "for group, (term, vote) in self._hard_states.items()",
            "for group, (term, vote) in ()",
        ),
    ),
    mutant(
        "writes-the-applied-index-ahead",
        "data and applied index go into one engine write (DESIGN section 6)",
        (
            "server/applying.py",
            "        for host in applied.last:\n            host.machine.flush(applied.batch)\n",
            "",
        ),
        (
            "server/applying.py",
            "            self._engine.write(applied.batch)\n",
            "            index = self._engine.batch()\n"
            "            for host in applied.last:\n"
            "                host.machine.flush(index)\n"
            "            self._engine.write(index)\n"
            "            self._engine.write(applied.batch)\n",
        ),
    ),
    mutant(
        "goes-on-with-an-obsolete-log",
        "a log that a snapshot replaced is dropped at the next start (Raft §7)",
        (
            "server/recovery.py",
            "        entries = ()\n    if mark",
            "    if mark",
        ),
    ),
    mutant(
        "does-not-mark-what-it-installed",
        "a start notes the snapshot that the log does not know of",
        (
            "server/groups.py",
            "        marks += marks_missing(group, recovered.base, logs.get(group))\n",
            "",
        ),
    ),
    mutant(
        "believes-a-mark-of-the-engine",
        "entries up to the mark are applied again where the engine lacks them",
        (
            "server/recovery.py",
            "    if mark is not None:\n        _replay(",
            "    if mark is not None and machine.applied_index >= mark.index:\n        _replay(",
        ),
    ),
    mutant(
        "does-not-sync-a-segments-name",
        "a new segment's directory is synced before it is used",
        (
            "storage/segment_files.py",
            "            sync_directory(self._files, self.directory)\n        except",
            "        except",
        ),
    ),
    mutant(
        "names-a-segment-before-it-is-synced",
        "a segment gets its name when its beginning is durable",
        (
            "storage/segment_files.py",
            "            sync(self._files, fd, self._spare)\n            self._files.rename",
            "            self._files.rename",
        ),
    ),
    mutant(
        "leaves-a-torn-tail",
        "behind the last whole batch stand zeros before the next one is written",
        (
            "storage/mending.py",
            "            files.write(fd, [bytes(torn.end - torn.offset)], torn.offset)\n",
            "",
        ),
    ),
    mutant(
        "believes-the-page-cache",
        "after a failed sync the last batch is written again (Rebello 2020)",
        (
            "storage/mending.py",
            "        files.write(fd, [data[scan.last_batch : scan.end]], scan.last_batch)\n",
            "",
        ),
    ),
    mutant(
        "believes-what-was-not-synced",
        "what a start reads is synced before it is believed",
        (
            "storage/mending.py",
            "scan.last_batch)\n        sync(files, fd, segment.path)\n",
            "scan.last_batch)\n",
        ),
    ),
    mutant(
        "releases-without-a-mark",
        "a segment goes only behind a durable mark (DESIGN section 6)",
        (
            "storage/segments.py",
            "group: min(index, self._ledger.mark_index(group)) for",
            "group: index for",
        ),
        (
            "server/upkeep.py",
            "        self._wal.append(marks, lambda: None)\n",
            "",
        ),
    ),
    mutant(
        "lets-entries-overtake",
        "on a full disk only votes overtake what was appended before",
        (
            "server/raft_driver.py",
            "    if ready.entries or ready.compacted is not None:\n        return False\n",
            "",
        ),
    ),
)
