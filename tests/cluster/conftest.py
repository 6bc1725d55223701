from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cluster_harness import RunningCluster, made
from local_cluster import Local, local_cluster

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


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """Three founders that serve."""
    with local_cluster(tmp_path, Wanted(shards=4)) as started:
        yield started
