"""What a run came to: ``report.json``, ``report.md``, ``latency.svg``, ``history.jsonl``."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from chaos.history import History, Sample
from chaos.nemesis import Event
from chaos.plot import latency_svg
from chaos.verdict import Verdict
from histories.files import save

if TYPE_CHECKING:
    from pathlib import Path

AROUND_S = 5.0
"""What happens so long after a fault is put down to it."""


@dataclass
class Run:
    """Everything that a report tells; times are of the monotonic clock."""

    seed: int
    began: float
    ended: float
    kills: int
    retried: int
    """Writes whose answers were cut off and that came again."""
    history: History
    events: list[Event]
    verdict: Verdict
    notes: list[str]


def facts(run: Run) -> dict[str, Any]:
    """The report as plain data."""
    history, seconds = run.history, run.ended - run.began
    good = history.outcomes["ok"]
    return {
        "seed": run.seed,
        "seconds": round(seconds, 1),
        "operations": dict(sorted(history.outcomes.items())),
        "operations_per_s": round(good / seconds, 1),
        "operations_by_kind": dict(sorted(history.kinds.items())),
        "answered_writes_asked_for_again": run.retried,
        "acknowledged_writes": history.acknowledged_writes,
        "kills": run.kills,
        "faults": {
            name: {
                "times": sum(event.name == name for event in run.events),
                "counted": sum(event.name == name and event.counts for event in run.events),
            }
            for name in sorted({event.name for event in run.events})
        },
        "events": [_event(run, event) for event in run.events],
        "longest_unavailability_s": {
            str(shard): round(gap, 2) for shard, gap in sorted(history.longest_gap_s.items())
        },
        "recovery_s": round(run.verdict.recovery_s, 2),
        "ledger_keys_read_back": run.verdict.ledger_read,
        "operations_checked_for_linearizability": run.verdict.operations_checked,
        "replicas": run.verdict.replicas,
        "problems": run.verdict.problems,
        "notes": run.notes,
    }


def _pauses_around(event: Event, samples: list[Sample]) -> dict[int, float]:
    """By shard, the longest time within a fault and a while after it without a success."""
    first = bisect_left(samples, event.began - AROUND_S, key=lambda sample: sample.at)
    last: dict[int, float] = {}
    longest: defaultdict[int, float] = defaultdict(float)
    for sample in islice(samples, first, None):
        if sample.at > event.ended + AROUND_S:
            break
        if not sample.is_ok:
            continue
        if sample.at >= event.began:
            gap = sample.at - last.get(sample.shard, sample.at)
            longest[sample.shard] = max(longest[sample.shard], gap)
        last[sample.shard] = sample.at
    return dict(longest)


def _event(run: Run, event: Event) -> dict[str, Any]:
    pauses = _pauses_around(event, run.history.samples)
    return {
        "name": event.name,
        "what": event.what,
        "from_s": round(event.began - run.began, 2),
        "to_s": round(event.ended - run.began, 2),
        "bit": event.bit,
        "operations_per_s_before": round(event.operations_per_s),
        "counts": event.counts,
        "longest_pause_s": round(max(pauses.values(), default=0.0), 2),
        "longest_pause_by_shard_s": {
            str(shard): round(pause, 2) for shard, pause in sorted(pauses.items())
        },
    }


def in_words(told: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    verdict = "HOLDS" if not told["problems"] else "DOES NOT HOLD"
    lines = [
        f"# Chaos, seed {told['seed']}: {verdict}",
        "",
        f"- {told['seconds']:.0f} s, {told['operations_per_s']:.0f} operations/s, "
        f"{told['acknowledged_writes']} acknowledged writes, {told['kills']} kills",
        f"- {told['answered_writes_asked_for_again']} "
        "answered writes came again, for a fault had cut the answer off",
        f"- read back: {told['ledger_keys_read_back']} keys written once, all acknowledged",
        "- checked for linearizability: "
        f"{told['operations_checked_for_linearizability']} operations",
        f"- replicas: {told['replicas']}",
        f"- recovery after healing: {told['recovery_s']:.1f} s",
        "",
        *(f"**{note}**" for note in told["notes"]),
        *(f"PROBLEM: {problem}" for problem in told["problems"]),
        "",
        "| fault | times | bit under load | longest pause of a shard, s |",
        "|---|---|---|---|",
    ]
    pauses: Counter[str] = Counter()
    for event in told["events"]:
        pauses[event["name"]] = max(pauses[event["name"]], event["longest_pause_s"])
    lines += [
        f"| {name} | {row['times']} | {row['counted']} | {pauses[name]:.2f} |"
        for name, row in told["faults"].items()
    ]
    lines += ["", "| shard | longest time without a success, s |", "|---|---|"]
    lines += [f"| {shard} | {gap:.2f} |" for shard, gap in told["longest_unavailability_s"].items()]
    lines += ["", "| outcome | operations |", "|---|---|"]
    lines += [f"| {name} | {number} |" for name, number in told["operations"].items()]
    return "\n".join(lines) + "\n"


def write(directory: Path, run: Run) -> dict[str, Any]:
    """Write all of it into ``directory``; the result is what ``report.json`` holds."""
    told = facts(run)
    text = json.dumps(told, indent=2) + "\n"
    (directory / "report.json").write_text(text, encoding="utf-8")
    (directory / "report.md").write_text(in_words(told), encoding="utf-8")
    picture = latency_svg(run.history.samples, run.events, run.began, run.ended)
    (directory / "latency.svg").write_text(picture, encoding="utf-8")
    save(directory / "history.jsonl", run.history.operations)
    return told
