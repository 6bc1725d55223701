from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster_harness import RunningCluster, made

from kvstore.cli.launcher.cluster import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def new_cluster(tmp_path: Path) -> Iterator[RunningCluster]:
    """Three nodes, not started."""
    with made(tmp_path / "kv", Wanted(nodes=3, shards=4, base_port=0)) as running:
        yield running


@pytest.fixture
async def cluster(new_cluster: RunningCluster) -> RunningCluster:
    """Three nodes that serve."""
    await new_cluster.start()
    return new_cluster
