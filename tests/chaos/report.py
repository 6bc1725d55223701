"""What a run came to: ``report.json``, ``report.md``, ``latency.svg``, ``history.jsonl``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos.clients import Books
from chaos.nemesis import Event
from chaos.plot import latency_svg
from chaos.verdict import Verdict
from histories.files import save

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Run:
    """Everything that a report tells; times are of the monotonic clock."""

    seed: int
    began: float
    ended: float
    kills: int
    books: Books
    events: list[Event]
    verdict: Verdict
    notes: list[str]


def facts(run: Run) -> dict[str, Any]:
    """The report as plain data."""
    books, seconds = run.books, run.ended - run.began
    good = books.outcomes["ok"]
    return {
        "seed": run.seed,
        "seconds": round(seconds, 1),
        "operations": dict(sorted(books.outcomes.items())),
        "operations_per_s": round(good / seconds, 1),
        "acknowledged_writes": books.acknowledged_writes,
        "kills": run.kills,
        "faults": {
            name: {
                "times": sum(event.name == name for event in run.events),
                "bit": sum(event.name == name and event.counts for event in run.events),
            }
            for name in sorted({event.name for event in run.events})
        },
        "events": [
            {
                "name": event.name,
                "from_s": round(event.began - run.began, 2),
                "to_s": round(event.ended - run.began, 2),
                "bit": event.bit,
                "operations_per_s_before": round(event.operations_per_s),
                "longest_pause_s": round(_pause_around(event, books), 2),
            }
            for event in run.events
        ],
        "longest_unavailability_s": {
            str(shard): round(gap, 2) for shard, gap in sorted(books.longest_gap_s.items())
        },
        "recovery_s": round(run.verdict.recovery_s, 2),
        "ledger_keys_read_back": run.verdict.ledger_read,
        "operations_checked_for_linearizability": run.verdict.operations_checked,
        "replicas": run.verdict.replicas,
        "problems": run.verdict.problems,
        "notes": run.notes,
    }


def _pause_around(event: Event, books: Books) -> float:
    """The longest time within a fault, and 5 s after it, in which some shard did nothing well."""
    since, until = event.began, event.ended + 5.0
    last: dict[int, float] = {}
    longest = 0.0
    for sample in books.samples:
        if not sample.is_ok or sample.at < since - 5.0 or sample.at > until:
            continue
        if sample.at >= since:
            longest = max(longest, sample.at - last.get(sample.shard, sample.at))
        last[sample.shard] = sample.at
    return longest


def in_words(told: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    verdict = "HOLDS" if not told["problems"] else "DOES NOT HOLD"
    lines = [
        f"# Chaos, seed {told['seed']}: {verdict}",
        "",
        f"- {told['seconds']:.0f} s, {told['operations_per_s']:.0f} operations/s, "
        f"{told['acknowledged_writes']} acknowledged writes, {told['kills']} kills",
        f"- read back: {told['ledger_keys_read_back']} keys written once, all acknowledged",
        "- checked for linearizability: "
        f"{told['operations_checked_for_linearizability']} operations",
        f"- replicas: {told['replicas']}",
        f"- recovery after healing: {told['recovery_s']:.1f} s",
        "",
        *(f"**{note}**" for note in told["notes"]),
        *(f"PROBLEM: {problem}" for problem in told["problems"]),
        "",
        "| fault | times | bit | longest pause of a shard, s |",
        "|---|---|---|---|",
    ]
    pauses: Counter[str] = Counter()
    for event in told["events"]:
        pauses[event["name"]] = max(pauses[event["name"]], event["longest_pause_s"])
    lines += [
        f"| {name} | {row['times']} | {row['bit']} | {pauses[name]:.2f} |"
        for name, row in told["faults"].items()
    ]
    lines += ["", "| outcome | operations |", "|---|---|"]
    lines += [f"| {name} | {number} |" for name, number in told["operations"].items()]
    return "\n".join(lines) + "\n"


def write(directory: Path, run: Run) -> dict[str, Any]:
    """Write all of it into ``directory``; the result is what ``report.json`` holds."""
    told = facts(run)
    text = json.dumps(told, indent=2) + "\n"
    (directory / "report.json").write_text(text, encoding="utf-8")
    (directory / "report.md").write_text(in_words(told), encoding="utf-8")
    picture = latency_svg(run.books.samples, run.events, run.began, run.ended)
    (directory / "latency.svg").write_text(picture, encoding="utf-8")
    save(directory / "history.jsonl", run.books.history)
    return told
