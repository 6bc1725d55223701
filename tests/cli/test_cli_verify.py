"""``kv verify`` as it is typed, where there is nothing to compare."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvstore.cli.launcher import layout
from kvstore.cli.launcher.layout import ClusterSpec, Layout
from kvstore.cli.launcher.ports import free_base_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli_result import Result


@pytest.mark.parametrize("output", ["simple", "json"])
def test_a_known_cluster_of_which_no_node_answers_is_one_line(
    kv: Callable[..., Result], output: str
) -> None:
    spec = ClusterSpec(id="c", base_port=free_base_port(3, random.Random()))
    layout.save(Layout(Path(".kv"), spec))
    done = kv("verify", "--timeout", "0.2", "-o", output)
    assert (done.code, done.out) == (3, b"")
    addresses = ",".join(node.address for node in spec.config().nodes)
    assert done.error_line == f"kv: no node answers at {addresses}"
