"""What must hold once everything is healed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import kvstore
from chaos.cluster import WAIT_S, Cluster, wait_for
from histories.checker import STEPS_MAX, check
from kvstore.cli.verification import verify_cluster
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chaos.history import History

READ_AT_ONCE = 500
LEDGER_KEYS_MIN = 100
"""With fewer a run proves nothing."""
SIGNS_OF_NEGLECT = (
    "Traceback (most recent call last)",
    "Exception ignored",
    "Fatal Python error",
    "Task was destroyed",
    "never awaited",
    "never retrieved",
)
"""What the interpreter and its event loop say of work that nobody looked after."""
STEPS_AN_OPERATION = 20
"""Of the search for an order; most keys need about one."""


class Store(Protocol):
    """What is needed of a client to read everything back."""

    async def get(self, key: str | bytes) -> kvstore.KeyValue | None: ...


@dataclass
class Verdict:
    """Empty ``problems``: all of it held."""

    problems: list[str] = field(default_factory=list)
    recovery_s: float = 0.0
    """From healing until the cluster was whole."""
    ledger_read: int = 0
    counters_read: int = 0
    operations_checked: int = 0
    replicas: str = ""

    @property
    def holds(self) -> bool:
        return not self.problems


async def heal(cluster: Cluster, verdict: Verdict) -> None:
    """Heal all, start everybody, and see the cluster whole within the time allowed.

    Whole: every shard has a leader and takes a write, and every replica has applied what was
    committed by then.
    """
    cluster.heal_network()
    began = time.monotonic()
    for node in cluster.nodes:
        node.resume()
        node.clear_fault()
        if not node.is_up:
            node.start()
    stage = "some shard has no leader"
    try:
        async with asyncio.timeout(WAIT_S):
            await wait_for(cluster.is_led, stage, WAIT_S)
            stage = "some shard takes no write"
            await _write_to_every_shard(cluster)
            stage = "some replica has not caught up"
            await wait_for(CatchingUp(cluster).is_done, stage, WAIT_S)
    except (AssertionError, TimeoutError, kvstore.KVError) as error:
        verdict.problems.append(f"not whole {WAIT_S:g} s after healing: {stage}: {error}")
    verdict.recovery_s = time.monotonic() - began


class CatchingUp:
    """Replicas on their way to what was committed when this was first asked."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._goals: dict[int, int] = {}

    async def is_done(self) -> bool:
        survey = await self._cluster.survey()
        for shard in survey.view.shards:
            if shard.leader is not None and shard.commit_index is not None:
                self._goals.setdefault(shard.id, shard.commit_index)
        applied = {
            (answer.status["node"]["id"], row["id"]): row["applied_index"]
            for answer in survey.answers.values()
            for row in answer.status["shards"]
        }
        return len(self._goals) == self._cluster.config.shards and all(
            applied.get((node, shard.id), -1) >= self._goals[shard.id]
            for shard in survey.view.shards
            for node in shard.replicas
        )


async def _write_to_every_shard(cluster: Cluster) -> None:
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < cluster.config.shards:
        key = f"healed-{number}"
        keys.setdefault(shard_of(key.encode(), cluster.config.shards), key)
        number += 1
    async with kvstore.connect(cluster.endpoints, timeout_s=WAIT_S) as store:
        await asyncio.gather(*(store.put(key, b"yes") for key in keys.values()))


async def judge(cluster: Cluster, history: History, verdict: Verdict) -> None:
    """Hold what the clients were told against what the cluster has."""
    try:
        async with kvstore.connect(cluster.endpoints, timeout_s=WAIT_S) as store:
            await check_ledger(store, history, verdict)
            await check_counters(store, history, verdict)
    except kvstore.KVError as error:
        verdict.problems.append(f"not everything can be read back: {error}")
    steps_max = max(STEPS_MAX, STEPS_AN_OPERATION * len(history.operations))
    found = await asyncio.to_thread(check, history.operations, steps_max=steps_max)
    verdict.operations_checked = len(history.operations)
    if not found.ok:
        verdict.problems.append(f"the history: {found.outcome.name.lower()}\n{found.explanation}")
    await _compare_replicas(cluster, verdict)
    for node in cluster.nodes:
        verdict.problems += complaints(node.id, node.log_text())
    verdict.problems += cluster.unexpected_ends()


async def _compare_replicas(cluster: Cluster, verdict: Verdict) -> None:
    try:
        replicas = await verify_cluster(cluster.config, timeout_s=WAIT_S)
    except kvstore.KVError as error:
        verdict.replicas = f"not compared: {error}"
    else:
        verdict.replicas = replicas.summary()
        if replicas.is_equal:
            return
        verdict.replicas += "".join(f"\n{problem}" for problem in replicas.problems())
    verdict.problems.append(f"replicas: {verdict.replicas}")


def complaints(name: str, log: str) -> Iterable[str]:
    """What no node may log, whatever was done to it: it should have told in a line of its own."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            yield f"{name} logged a traceback: {lines[number - 1] if number else line}"
        elif any(sign in line for sign in SIGNS_OF_NEGLECT):
            yield f"{name} logged: {line}"


async def check_ledger(store: Store, history: History, verdict: Verdict) -> None:
    keys = list(history.ledger)
    if len(keys) < LEDGER_KEYS_MIN:
        verdict.problems.append(
            f"too little traffic: {len(keys)} keys to read back, {LEDGER_KEYS_MIN} needed"
        )
    for start in range(0, len(keys), READ_AT_ONCE):
        some = keys[start : start + READ_AT_ONCE]
        items = await asyncio.gather(*map(store.get, some))
        for key, item in zip(some, items, strict=True):
            if item is None or item.value != history.ledger[key]:
                verdict.problems.append(f"acknowledged write lost: {key}")
    verdict.ledger_read = len(keys)


async def check_counters(store: Store, history: History, verdict: Verdict) -> None:
    if not history.counted:
        verdict.problems.append("too little traffic: no counter was incremented")
    keys = sorted(history.counted.keys() | history.uncertain.keys())
    for key in keys:
        item = await store.get(key)
        count = 0 if item is None else int(item.value)
        sure = history.counted[key]
        if not sure <= count <= sure + history.uncertain[key]:
            verdict.problems.append(
                f"{key.decode()} is {count} after {sure} acknowledged increments and "
                f"{history.uncertain[key]} of unknown outcome"
            )
    verdict.counters_read = len(keys)
