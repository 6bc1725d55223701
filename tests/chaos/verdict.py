"""What must hold once everything is healed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kvstore
from chaos.cluster import WAIT_S, Cluster, wait_for
from histories.checker import check
from kvstore.cli.verification import verify_cluster
from kvstore.sharding.ring import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chaos.clients import Books

READ_AT_ONCE = 500


@dataclass
class Verdict:
    """Empty ``problems``: all of it held."""

    problems: list[str] = field(default_factory=list)
    recovery_s: float = 0.0
    """From healing until every shard took a write."""
    ledger_read: int = 0
    operations_checked: int = 0
    replicas: str = ""

    @property
    def holds(self) -> bool:
        return not self.problems


async def heal(cluster: Cluster, verdict: Verdict) -> None:
    """Heal all, start everybody, and see every shard take a write within the time allowed."""
    cluster.heal_network()
    began = time.monotonic()
    for node in cluster.nodes:
        node.go_on()
        if node.shim is not None:
            node.shim.countermand()
        if not node.is_up:
            node.start()
    try:
        await wait_for(cluster.is_led, "every shard has a leader", WAIT_S)
        await _write_to_every_shard(cluster)
    except (AssertionError, kvstore.KVError) as error:
        verdict.problems.append(f"no recovery within {WAIT_S:g} s of healing: {error}")
    verdict.recovery_s = time.monotonic() - began


async def _write_to_every_shard(cluster: Cluster) -> None:
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < cluster.config.shards:
        key = f"healed-{number}"
        keys.setdefault(shard_of(key.encode(), cluster.config.shards), key)
        number += 1
    async with kvstore.connect(cluster.endpoints, timeout_s=WAIT_S) as store:
        await asyncio.gather(*(store.put(key, b"yes") for key in keys.values()))


async def judge(cluster: Cluster, books: Books, verdict: Verdict) -> None:
    """Hold what the clients were told against what the cluster has."""
    async with kvstore.connect(cluster.endpoints, timeout_s=WAIT_S) as store:
        await _check_ledger(store, books, verdict)
        await _check_counters(store, books, verdict)
    found = await asyncio.to_thread(check, books.history)
    verdict.operations_checked = len(books.history)
    if not found.ok:
        verdict.problems.append(f"the history: {found.outcome.name.lower()}\n{found.explanation}")
    replicas = await verify_cluster(cluster.config, timeout_s=WAIT_S)
    verdict.replicas = replicas.summary()
    if not replicas.is_equal:
        verdict.problems.append(f"replicas: {'; '.join(map(str, replicas.problems()))}")
    for node in cluster.nodes:
        text = node.log_file.read_text(encoding="utf-8", errors="replace")
        verdict.problems += _complaints(node.id, text)
        if not node.is_up:
            verdict.problems.append(f"{node.id} is dead, and not by our hand")


def _complaints(name: str, log: str) -> Iterable[str]:
    """A traceback in a node's log: whatever was done to it, it should have told in a line."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("Traceback"):
            yield f"{name} logged a traceback: {lines[number - 1]}"


async def _check_ledger(store: kvstore.Client, books: Books, verdict: Verdict) -> None:
    keys = list(books.ledger)
    for start in range(0, len(keys), READ_AT_ONCE):
        some = keys[start : start + READ_AT_ONCE]
        items = await asyncio.gather(*map(store.get, some))
        for key, item in zip(some, items, strict=True):
            if item is None or item.value != books.ledger[key]:
                verdict.problems.append(f"acknowledged write lost: {key}")
    verdict.ledger_read = len(keys)


async def _check_counters(store: kvstore.Client, books: Books, verdict: Verdict) -> None:
    for key in sorted(books.counted.keys() | books.uncertain.keys()):
        item = await store.get(key)
        count = 0 if item is None else int(item.value)
        sure = books.counted[key]
        if not sure <= count <= sure + books.uncertain[key]:
            verdict.problems.append(
                f"{key.decode()} is {count} after {sure} acknowledged increments and "
                f"{books.uncertain[key]} of unknown outcome"
            )
