"""Measures the membership in simulated clusters: `python scripts/swim_figures.py --members 8,64`.

Prints tables for the README: how fast a killed member is found and how far that is from the
papers' figures, what membership costs when idle and when there is news, and how many healthy
members are wronged by members that cannot keep up, with and without Lifeguard. One seed gives
one exact run; nothing but the simulation takes time.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from pathlib import Path
from statistics import fmean

# The simulator lives with the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "swim"))

from swim_hardships import Clogged, Starving
from swim_measures import (
    ANOMALIES,
    HARD_S,
    LIFEGUARD,
    NO_AWAKE_CLOCK,
    PLAIN_SWIM,
    Death,
    Load,
    Measured,
    Wronged,
    mean_load,
    wronged,
)

PERIODS_EXPECTED = math.e / (math.e - 1)
VARIANTS = {
    "SWIM alone": PLAIN_SWIM,
    "Lifeguard": NO_AWAKE_CLOCK,
    "Lifeguard, awake clock": LIFEGUARD,
}
HARDSHIPS: dict[type[Clogged | Starving], str] = {Clogged: "messages", Starving: "altogether"}


def table(*columns: str) -> None:
    """A heading of columns."""
    print("\n| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")


def row(*cells: object) -> None:
    """A line of the last table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def show_deaths(deaths: dict[int, list[Death]]) -> None:
    """How fast they were found."""
    print(
        f"\nA member is killed; means of {len(next(iter(deaths.values())))} deaths. SWIM expects "
        f"e/(e-1) = {PERIODS_EXPECTED:.2f} probe intervals until it is probed. Here members do not "
        "begin their intervals together, so that it is about 1, and one more until that has failed."
    )
    table(
        *("N", "first suspects it, s", "in intervals", "all suspect it after, s"),
        *("in gossip rounds", "log2 N", "first finds it dead, s", "all know, s"),
    )
    for members, of in deaths.items():
        first_s = fmean(death.suspected_s for death in of)
        spread_s = fmean(death.all_suspect_s - death.suspected_s for death in of)
        row(
            members,
            f"{first_s:.2f}",
            f"{first_s / LIFEGUARD.probe_interval_s:.2f}",
            f"{spread_s:.2f}",
            f"{spread_s / LIFEGUARD.gossip_interval_s:.1f}",
            f"{math.log2(members):.1f}",
            f"{fmean(death.found_s for death in of):.2f}",
            f"{fmean(death.all_know_s for death in of):.2f}",
        )


def show_loads(idle: dict[int, Load], deaths: dict[int, list[Death]]) -> None:
    """What it costs."""
    print("\nSent by each member each second, when idle, and from a first suspicion till all know.")
    table("N", "messages", "bytes", "of these whole views", "with news: messages", "bytes")
    for members, load in idle.items():
        busy = mean_load([death.load for death in deaths[members]])
        quiet = (f"{load.messages:.2f}", f"{load.size_bytes:.0f}", f"{load.views_bytes:.0f}")
        row(members, *quiet, f"{busy.messages:.1f}", f"{busy.size_bytes:.0f}")


def show_wronged(members: int, counts: list[int], runs: int, seed: int) -> None:
    """Whom members that cannot keep up have wronged."""
    print(
        f"\nOf {members} members some have a hard time for {HARD_S:.0f} s: they are blocked again "
        "and again, either with their messages only or altogether. Sums over "
        f"{len(ANOMALIES[Clogged])} rhythms, {runs} run(s) of each. Healthy members that were ..."
    )
    table(
        *("blocked", "members", "rules", "suspected", "found dead"),
        *("told so to anybody (FP)", "to healthy ones (FP-)", "times fewer FP"),
    )
    for hardship, name in HARDSHIPS.items():
        for count in counts:
            base = 0
            for rules, config in VARIANTS.items():
                found = sum(
                    (wronged(members, count, hardship, config, seed + run) for run in range(runs)),
                    Wronged(),
                )
                base = base or found.dead_told
                times = f"{base / found.dead_told:.0f}" if found.dead_told else "all gone"
                row(
                    *(name, count, rules, found.suspected, found.dead),
                    *(found.dead_told, found.dead_told_healthy, times),
                )


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=numbers, default=[8, 64, 256, 1000], metavar="N,N")
    parser.add_argument("--runs", type=int, default=5, help="deaths for each N")
    parser.add_argument("--suffering", type=numbers, default=[1, 4, 16], metavar="N,N")
    parser.add_argument("--suffering-of", type=int, default=64, metavar="N")
    parser.add_argument("--suffering-runs", type=int, default=1, metavar="RUNS")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    gc.disable()  # A thousand views are millions of objects, none of them garbage.
    idle: dict[int, Load] = {}
    deaths: dict[int, list[Death]] = {}
    for members in options.members:
        cluster = Measured(members, options.seed)
        idle[members] = cluster.idle()
        deaths[members] = [cluster.death() for _ in range(options.runs)]
        del cluster
        gc.collect()
    show_deaths(deaths)
    show_loads(idle, deaths)
    show_wronged(options.suffering_of, options.suffering, options.suffering_runs, options.seed)


if __name__ == "__main__":
    main()
