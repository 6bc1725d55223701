"""Whom a survey asks, and what is known where nobody answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from asked_nodes import nobody
from elastic_nodes import Elastic

from kvstore.cli.survey import survey_cluster
from kvstore.config import ClusterConfig, NodeAddress
from kvstore.ids import NodeId


@pytest.fixture
async def elastic() -> Any:
    async with Elastic().running("n1", "n2", "n3") as cluster:
        yield cluster


async def test_one_that_was_added_later_leads_to_the_others(elastic: Elastic) -> None:
    """All founders are gone: the cluster's file still names them, and a seed."""
    elastic.becomes(elastic.map)
    gone = (NodeAddress(NodeId("n0"), await nobody()),)
    cluster = ClusterConfig("c", gone, replicas=1, seeds=(elastic.addresses["n3"],))
    survey = await survey_cluster(cluster)
    assert set(survey.answers) == set(elastic.addresses.values())
    assert survey.shard_map == elastic.map
    assert survey.view.is_led


async def test_without_its_founders_a_cluster_is_known_by_whoever_answers(elastic: Elastic) -> None:
    cluster = ClusterConfig("c", (), seeds=(elastic.addresses["n1"],))
    assert (await survey_cluster(cluster)).shard_map == elastic.map
    survey = await survey_cluster(replace(cluster, seeds=(await nobody(),)))
    assert (survey.shard_map, dict(survey.answers)) == (None, {})
