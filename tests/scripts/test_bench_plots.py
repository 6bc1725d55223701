"""The pictures are well-formed and show what was measured."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from bench.cells import selection
from bench.chart import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, Point, decades, svg
from bench.histogram import Histogram
from bench.measured import Cell
from bench.plots import nines, percentiles, pictures
from bench_stand_ins import measured, run

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_the_selection_gives_all_pictures() -> None:
    drawn = pictures([measured(cell, run(), run(2000)) for cell in selection()])
    assert set(drawn) == {
        *("throughput.svg", "connections.svg", "latency.svg", "latency-paced.svg")
    }
    throughput = texts(drawn["throughput.svg"])
    assert {"put", "get", "1,024", "operations/s"} <= set(throughput)
    assert "values of 256 B, 4 connections, medians and ranges of all runs; logarithmic scales" in (
        throughput
    )
    assert "scan" not in throughput
    assert {"put", "ycsb-a", "ms", "99 %"} <= set(texts(drawn["latency.svg"]))
    assert "mix" in texts(drawn["latency-paced.svg"])


def test_one_load_alone_is_drawn_too() -> None:
    drawn = pictures([measured(Cell("put", 256, 4))])
    assert set(drawn) == {"throughput.svg", "latency.svg"}
    assert pictures([measured(Cell("put", 256, 4, rate=10.0))]).keys() == {"latency-paced.svg"}
    assert pictures([]) == {}


def test_curves_are_told_apart_by_what_differs() -> None:
    cells = [Cell("put", n, 1, size) for n in (1, 16, 64) for size in (16, 256)]
    said = texts(pictures([measured(cell) for cell in cells])["throughput.svg"])
    assert {"put values of 16 B", "put values of 256 B"} <= set(said)


def test_everything_lies_within_the_frame() -> None:
    axis = Axis("x", 1.0, 100.0, [(1.0, "1"), (100.0, "100")])
    picture = svg("a < b & c", "", axis, axis, [Line("<l>", [Point(0.1, 1.0), Point(100.0, 1e9)])])
    first, last = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    assert (float(first.get("cx", 0)), float(last.get("cx", 0))) == (LEFT, WIDTH - RIGHT)
    assert TOP == float(last.get("cy", 0)) < float(first.get("cy", 0)) < HEIGHT
    assert {"a < b & c", "<l>"} <= set(texts(picture))


def test_more_curves_than_colours_differ_by_their_dashes() -> None:
    axis = Axis("x", 1.0, 100.0, [])
    lines = [Line(str(n), [Point(1.0, 1.0), Point(2.0, 2.0)]) for n in range(15)]
    paths = ElementTree.fromstring(svg("", "", axis, axis, lines)).iter(f"{SVG}path")
    looks = {(p.get("stroke"), p.get("stroke-dasharray")) for p in paths if p.get("stroke")}
    assert len(looks) == len(lines)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([1.0], 1.0, 2.0), ([3.0, 700.0], 2.0, 1000.0), ([0.03, 0.05], 0.02, 0.1), ([9.0], 5.0, 10.0)],
)
def test_an_axis_holds_all_values(values: list[float], low: float, high: float) -> None:
    found_low, found_high, ticks = decades(values)
    assert (found_low, found_high) == pytest.approx((low, high))
    assert ticks == pytest.approx(sorted(ticks))
    assert (ticks[0], ticks[-1]) == pytest.approx((low, high))


def test_rare_ones_get_room() -> None:
    assert [nines(percent) for percent in (0, 90, 99, 99.9)] == pytest.approx([0, 1, 2, 3])


def test_a_percentile_without_enough_beyond_it_is_not_drawn() -> None:
    latency = Histogram()
    latency.add_all([0.001] * 90 + [0.002] * 9 + [5.0])
    assert [point.y for point in percentiles(latency)] == pytest.approx([1.0, 2.0], rel=0.01)
    assert percentiles(latency)[-1].x == pytest.approx(1.0)
    latency.add_all([0.001] * 900 + [0.002] * 90 + [5.0] * 10)
    assert percentiles(latency)[-1].y == pytest.approx(5000, rel=0.01)
