"""What a run came to: ``report.json``, ``report.md``, ``latency.svg``, ``history.jsonl``."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from chaos.history import History, Sample
from chaos.nemesis import OPERATIONS_PER_S_MIN, Event
from chaos.plot import latency_svg
from chaos.verdict import Verdict
from histories.files import save

if TYPE_CHECKING:
    from pathlib import Path

AFTER_S = 5.0
"""What happens so long after a fault is put down to it, unless another begins before."""


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
        "retried_writes": run.retried,
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
        "counters_read_back": run.verdict.counters_read,
        "operations_checked_for_linearizability": run.verdict.operations_checked,
        "replicas": run.verdict.replicas,
        "problems": run.verdict.problems,
        "notes": run.notes,
    }


def _window(run: Run, event: Event) -> tuple[float, float]:
    """The time whose outages are put down to ``event``, and to those that came with it."""
    later = (other.began for other in run.events if other.began > event.ended)
    return event.began, min(event.ended + AFTER_S, run.ended, *later)


def _outages(samples: list[Sample], since: float, until: float) -> dict[int, float]:
    """By shard, the longest time without a success; only what lies between the two moments."""
    first = bisect_left(samples, since - AFTER_S, key=lambda sample: sample.at)
    last: dict[int, float] = {}
    longest: defaultdict[int, float] = defaultdict(float)

    def ends(shard: int, at: float) -> None:
        longest[shard] = max(longest[shard], min(at, until) - max(last[shard], since))

    for sample in islice(samples, first, None):
        if sample.at > until:
            break
        if sample.is_ok:
            if sample.shard in last and sample.at >= since:
                ends(sample.shard, sample.at)
            last[sample.shard] = sample.at
    for shard in last:
        ends(shard, until)
    return dict(longest)


def _event(run: Run, event: Event) -> dict[str, Any]:
    outages = _outages(run.history.samples, *_window(run, event))
    return {
        "name": event.name,
        "what": event.what,
        "from_s": round(event.began - run.began, 2),
        "to_s": round(event.ended - run.began, 2),
        "bit": event.bit,
        "operations_per_s_before": round(event.operations_per_s),
        "counts": event.counts,
        "longest_outage_s": round(max(outages.values(), default=0.0), 2),
        "longest_outage_by_shard_s": {
            str(shard): round(outage, 2) for shard, outage in sorted(outages.items())
        },
    }


def in_words(told: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    verdict = "HOLDS" if not told["problems"] else "DOES NOT HOLD"
    marked = [f"**{note}**" for note in told["notes"]]
    marked += [f"PROBLEM: {problem}" for problem in told["problems"]]
    lines = [
        f"# Chaos, seed {told['seed']}: {verdict}",
        "",
        f"- {told['seconds']:.0f} s, {told['operations_per_s']:.0f} operations/s, "
        f"{told['acknowledged_writes']} acknowledged writes, {told['kills']} kills",
        f"- read back after it all: {told['ledger_keys_read_back']} acknowledged keys, "
        f"{told['counters_read_back']} counters",
        "- checked for linearizability: "
        f"{told['operations_checked_for_linearizability']} operations",
        f"- retries of writes that were done but whose reply was lost: {told['retried_writes']}",
        f"- replicas: {told['replicas']}",
        f"- whole again {told['recovery_s']:.1f} s after the last fault was healed",
        "",
        *([*marked, ""] if marked else []),
        *_fault_rows(told),
        "",
        "| shard | longest time without a success, s |",
        "|---|---|",
        *(f"| {shard} | {gap:.2f} |" for shard, gap in told["longest_unavailability_s"].items()),
        "",
        "| outcome | operations |",
        "|---|---|",
        *(f"| {name} | {number} |" for name, number in told["operations"].items()),
    ]
    return "\n".join(lines) + "\n"


def _fault_rows(told: dict[str, Any]) -> list[str]:
    outages: Counter[str] = Counter()
    for event in told["events"]:
        outages[event["name"]] = max(outages[event["name"]], event["longest_outage_s"])
    return [
        f"A fault counts if it provably had its effect, and at least {OPERATIONS_PER_S_MIN:g} "
        "operations/s were done before it.",
        f"An outage is a time without a success, of one shard, during the fault or up to "
        f"{AFTER_S:g} s after it,",
        "and before the next one; faults that come together share it.",
        "",
        "| fault | times | counted | longest outage of a shard, s |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['times']} | {row['counted']} | {outages[name]:.2f} |"
            for name, row in told["faults"].items()
        ),
    ]


def write(directory: Path, run: Run, told: dict[str, Any]) -> None:
    """Write all of it into ``directory``; ``told`` are the facts of ``run``."""
    text = json.dumps(told, indent=2) + "\n"
    (directory / "report.json").write_text(text, encoding="utf-8")
    (directory / "report.md").write_text(in_words(told), encoding="utf-8")
    picture = latency_svg(run.history.samples, run.events, run.began, run.ended)
    (directory / "latency.svg").write_text(picture, encoding="utf-8")
    save(directory / "history.jsonl", run.history.operations)
