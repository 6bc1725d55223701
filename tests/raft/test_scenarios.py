"""Scripted scenarios: what a group says and does, step by step, in text files.

A file in ``testdata`` is a list of blocks: a command, ``----``, and what came of it::

    elect 1
    ----
    1 leader of term 1
    ...

Commands act on a group of real cores on a perfect network that delivers in order. After each
the group runs until nothing is under way, or for the seconds that ``run`` names. To write the
results anew after a change that is meant: ``RAFT_REWRITE=1 make test TESTS=tests/raft``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from raft_cluster import Cluster, Faults

from kvstore.config import RaftConfig
from kvstore.errors import KVError
from kvstore.ids import ReplicaId
from kvstore.raft import confchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raft_cluster import Replica

    from kvstore.raft.messages import GroupConfig

TESTDATA = Path(__file__).parent / "testdata"
SETTLE_S = 0.05
"""Many round trips of this network, well below the first timer."""


class Scenario:
    """Carries out commands and describes the group."""

    def __init__(self) -> None:
        self.cluster = Cluster(1)

    def do(self, line: str) -> str:
        name, *words = line.split()
        try:
            getattr(self, f"_{name.replace('-', '_')}")(*words)
        except KVError as error:
            return f"refused: {error.message}"
        return self.describe()

    # -- commands -------------------------------------------------------------------------------

    def _group(self, voters: str, spares: str = "0", log_bytes_max: str = "8388608") -> None:
        """A fresh group of so many voters, with replicas beside it that are no members yet."""
        self.cluster = Cluster(
            1,
            int(voters),
            spares=int(spares),
            faults=Faults(delay_s_max=0.0, disk_s_max=0.0),
            options=RaftConfig(log_bytes_max=int(log_bytes_max)),
        )
        self.cluster.run(SETTLE_S)

    def _elect(self, replica: str) -> None:
        """``replica`` stands for election, as if its timer had run out."""
        self._at(replica).core.campaign(self.cluster.now)
        self._settle(replica)

    def _propose(self, replica: str, count: str = "1") -> None:
        for number in range(int(count)):
            self._at(replica).core.propose(b"command %d" % number, self.cluster.now)
            self._settle(replica)

    def _read(self, replica: str) -> None:
        self.cluster.read(self._at(replica))
        self.cluster.run(SETTLE_S)

    def _run(self, seconds: str) -> None:
        self.cluster.run(float(seconds))

    def _cut(self, *replicas: str) -> None:
        """These replicas and the others cannot reach each other."""
        self.cluster.partition({ReplicaId(int(replica)) for replica in replicas})

    def _cut_one_way(self, sender: str, receiver: str) -> None:
        self.cluster.blocked.add((ReplicaId(int(sender)), ReplicaId(int(receiver))))

    def _heal(self) -> None:
        self.cluster.heal()
        self.cluster.run(SETTLE_S)

    def _crash(self, replica: str) -> None:
        self._at(replica).crash()

    def _start(self, replica: str) -> None:
        self._at(replica).start()
        self.cluster.notice_return(ReplicaId(int(replica)))
        self.cluster.run(SETTLE_S)

    def _freeze(self, replica: str) -> None:
        """``replica`` stands still; what it is sent waits before it."""
        self._at(replica).paused_until = float("inf")

    def _gone(self, dead: str, *witnesses: str) -> None:
        """``witnesses`` saw the connections of ``dead`` close and nobody listen."""
        for witness in witnesses:
            self._at(witness).core.peer_gone(ReplicaId(int(dead)), self.cluster.now)
            self._at(witness).drive()

    def _transfer(self, replica: str, to: str) -> None:
        self._at(replica).core.transfer_leadership(ReplicaId(int(to)), self.cluster.now)
        self._settle(replica)

    def _members(self, replica: str, voters: str, learners: str = "") -> None:
        """The leader begins a change to ``voters`` (and ``learners``), such as ``1,2,4``."""
        self._at(replica).core.propose_config(
            _ids(voters), _ids(learners.strip("-")), self.cluster.now
        )
        self._settle(replica)

    def _at(self, replica: str) -> Replica:
        return self.cluster.replicas[ReplicaId(int(replica))]

    def _settle(self, replica: str) -> None:
        self._at(replica).drive()
        self.cluster.run(SETTLE_S)

    # -- what came of it ------------------------------------------------------------------------

    def describe(self) -> str:
        lines = [self._describe(replica) for replica in self.cluster.replicas.values()]
        reads = self.cluster.reads_confirmed
        waiting = sum(len(replica.reads) for replica in self.cluster.replicas.values())
        if reads or waiting:
            lines.append(f"reads: {reads} confirmed, {waiting} waiting")
        return "\n".join(lines)

    def _describe(self, replica: Replica) -> str:
        if not replica.is_up:
            return f"{replica.id} down"
        status = replica.core.status(self.cluster.now)
        following = f", follows {status.leader}" if status.leader not in (0, replica.id) else ""
        role = status.role.name.lower().replace("_", "-")
        return (
            f"{replica.id} {role} in term {status.term}{following}: "
            f"log {status.first_index}-{status.last_index}, committed {status.commit_index}, "
            f"{_members(status.config, replica.id)}"
        )


def _members(config: GroupConfig, own: ReplicaId) -> str:
    def names(replicas: tuple[ReplicaId, ...]) -> str:
        return ",".join(map(str, replicas))

    text = f"voters {names(config.voters)}"
    if config.voters_outgoing:
        text += f" leaving {names(config.voters_outgoing)}"
    if config.learners or config.learners_next:
        text += f" learners {names((*config.learners, *config.learners_next))}"
    return text if own in confchange.members(config) else f"{text} (not a member)"


def _ids(text: str) -> list[ReplicaId]:
    return [ReplicaId(int(word)) for word in text.split(",") if word]


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Comment lines, command and expected result of each block."""
    for block in text.strip().split("\n\n"):
        head, _, expected = f"{block}\n".partition("\n----\n")
        *comments, command = head.strip().split("\n")
        yield "".join(f"{comment}\n" for comment in comments), command, expected.strip()


@pytest.mark.parametrize("path", sorted(TESTDATA.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario, written = Scenario(), []
    for comments, command, expected in blocks(path.read_text()):
        got = scenario.do(command)
        written.append(f"{comments}{command}\n----\n{got}\n")
        if not os.environ.get("RAFT_REWRITE"):
            assert got == expected, f"{path.name}: {command}"
    if os.environ.get("RAFT_REWRITE"):
        path.write_text("\n".join(written))


def test_there_are_scenarios() -> None:
    assert len(list(TESTDATA.glob("*.txt"))) >= 8
