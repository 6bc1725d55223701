from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kvstore import __version__, config
from kvstore.config import (
    EngineConfig,
    LimitsConfig,
    NodeAddress,
    RaftConfig,
    ShardingConfig,
    SwimConfig,
    WalConfig,
)
from kvstore.errors import ConfigError
from kvstore.ids import NodeId
from kvstore.swim.claims import METADATA_BYTES_MAX, Metadata

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SECTIONS = {
    "raft": RaftConfig,
    "wal": WalConfig,
    "engine": EngineConfig,
    "limits": LimitsConfig,
    "sharding": ShardingConfig,
}
SMALLEST = """
[node]
id = "n1"
data_dir = "data"
[cluster]
id = "c"
[[cluster.nodes]]
id = "n1"
address = "127.0.0.1:7401"
"""


def with_setting(line: str, section: str = "raft") -> str:
    return f"{SMALLEST}\n[{section}]\n{line}\n"


def changed(old: str, new: str) -> str:
    assert old in SMALLEST
    return SMALLEST.replace(old, new)


# -- the files in configs/ ------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    loaded = config.load(path)
    assert loaded.data_dir.is_relative_to(path.parent)


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_the_commented_example_names_every_setting_with_its_default(section: str) -> None:
    table = tomllib.loads((CONFIGS / "node.toml").read_text(encoding="utf-8"))
    defaults = dataclasses.asdict(SECTIONS[section]())
    assert table[section] == defaults
    assert {k: type(v) for k, v in table[section].items()} == {
        k: type(v) for k, v in defaults.items()
    }


def test_the_commented_example_names_every_other_setting_too() -> None:
    table = tomllib.loads((CONFIGS / "node.toml").read_text(encoding="utf-8"))
    names = {f.name for f in dataclasses.fields(config.NodeConfig)}
    assert set(table) == {"node", "cluster", "swim", *SECTIONS}
    assert set(table["swim"]) - {"profile"} == {f.name for f in dataclasses.fields(SwimConfig)}
    known = names - {"cluster", "joining", "swim", *SECTIONS}
    assert {"node_id" if k == "id" else k for k in table["node"]} == known
    assert set(table["cluster"]) == {f.name for f in dataclasses.fields(config.ClusterConfig)}
    for node in table["cluster"]["nodes"]:
        assert set(node) == {f.name for f in dataclasses.fields(NodeAddress)}


def test_what_has_a_default_has_it_in_the_commented_example() -> None:
    loaded = config.load(CONFIGS / "node.toml")
    plain = config.parse(SMALLEST)
    assert loaded.cluster.shards == plain.cluster.shards
    assert loaded.cluster.replicas == config.REPLICAS_DEFAULT
    assert (loaded.admin_port, loaded.log_level) == (plain.admin_port, plain.log_level)
    assert {(node.weight, node.zone) for node in loaded.cluster.nodes} == {
        (plain.address.weight, plain.address.zone)
    }


def test_the_profile_of_the_commented_example_has_the_values_beside_it() -> None:
    assert config.load(CONFIGS / "node.toml").swim == config.PROFILES["local"]


def test_what_is_set_beside_a_profile_is_set_differently_from_it() -> None:
    loaded = config.parse(SMALLEST + '[swim]\nprofile = "wan"\ngossip_fanout = 9').swim
    assert loaded == dataclasses.replace(config.PROFILES["wan"], gossip_fanout=9)


JOINING = """
[node]
id = "n4"
data_dir = "data"
address = "127.0.0.1:7404"
weight = 2
zone = "b"
[cluster]
id = "c"
seeds = ["127.0.0.1:7401", "127.0.0.1:7404", "127.0.0.1:7401"]
"""


def test_a_node_that_joins_names_itself_and_its_seeds() -> None:
    loaded = config.parse(JOINING)
    assert loaded.address == NodeAddress(NodeId("n4"), "127.0.0.1:7404", 2.0, "b")
    assert loaded.cluster.nodes == ()
    assert loaded.seeds == ("127.0.0.1:7401",)


def test_the_founders_are_each_others_seeds() -> None:
    loaded = config.load(CONFIGS / "three-nodes" / "n2.toml")
    assert loaded.seeds == ("127.0.0.1:7401", "127.0.0.1:7403")


def test_the_three_nodes_agree_on_their_cluster() -> None:
    nodes = [config.load(CONFIGS / "three-nodes" / f"n{i}.toml") for i in (1, 2, 3)]
    assert len({node.cluster for node in nodes}) == 1
    assert [node.node_id for node in nodes] == ["n1", "n2", "n3"]
    assert [node.address.address for node in nodes] == [f"127.0.0.1:740{i}" for i in (1, 2, 3)]
    assert len({node.data_dir for node in nodes}) == 3


# -- loading ----------------------------------------------------------------------------------


def test_the_smallest_configuration_has_defaults_for_the_rest() -> None:
    loaded = config.parse(SMALLEST, relative_to=Path("/etc/kv"))
    assert loaded.data_dir == Path("/etc/kv/data")
    assert loaded.cluster.replicas == 1
    assert loaded.raft == RaftConfig()
    assert loaded.limits == LimitsConfig()


def test_the_longest_that_a_node_may_say_of_itself_is_let_in_by_the_others() -> None:
    text = changed("127.0.0.1:7401", "é" * 125 + ":7401") + 'zone = "' + "\U0001f600" * 64 + '"'
    own = config.parse(text).address
    said = Metadata(own.address, own.zone, own.weight, __version__)
    assert 500 < said.size_bytes <= METADATA_BYTES_MAX


def test_an_absolute_data_directory_stays_so() -> None:
    text = changed('"data"', '"/var/lib/kv"')
    assert config.parse(text, relative_to=Path("/etc")).data_dir == Path("/var/lib/kv")


def test_a_whole_number_will_do_for_a_number() -> None:
    loaded = config.parse(with_setting("election_timeout_s_max = 3"))
    assert loaded.raft.election_timeout_s_max == 3.0
    assert type(loaded.raft.election_timeout_s_max) is float


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("h:1", "h", 1), ("127.0.0.1:65535", "127.0.0.1", 65535), ("[::1]:7401", "::1", 7401)],
)
def test_an_address_has_a_host_and_a_port(address: str, host: str, port: int) -> None:
    node = NodeAddress(NodeId("n1"), address)
    assert config.is_address(address)
    assert (node.host, node.port) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "h", ":1", "h:", "h:0", "h:65536", "h:-1", "h:1a", "h:१", "h\n:1"]
)
def test_what_is_no_address(text: str) -> None:
    assert not config.is_address(text)


def test_a_port_with_more_digits_than_a_number_may_have() -> None:
    assert not config.is_address("h:" + "9" * 5000)


def test_a_member_is_found_by_its_name() -> None:
    cluster = config.load(CONFIGS / "node.toml").cluster
    assert cluster.node("n2").port == 7402
    with pytest.raises(KeyError):
        cluster.node("n9")


# -- what is refused, and how -----------------------------------------------------------------

SECOND_NODE = '[[cluster.nodes]]\nid = "%s"\naddress = "%s"\n'

BROKEN: list[tuple[str, str]] = [
    ("[node", "not TOML"),
    ("x = " + "[" * 200_000, "not TOML: "),
    ("", "section [node] is missing"),
    ("node = 1", "node must be a section"),
    (
        SMALLEST + "[rfat]",
        "unknown setting rfat (known: cluster, engine, limits, node, raft, sharding, swim, wal)",
    ),
    (changed("data_dir", "datadir"), "unknown setting node.datadir"),
    (changed('data_dir = "data"', ""), "node.data_dir is missing"),
    (changed('"data"', '""'), "node.data_dir must name a directory"),
    (changed('data_dir = "data"', "data_dir = 1"), "node.data_dir must be text, not 1"),
    (changed('[cluster]\nid = "c"', "[cluster]"), "cluster.id is missing"),
    (changed('"c"', '""'), "cluster.id must not be empty"),
    (changed("[[cluster.nodes]]", "[[cluster.node]]"), "unknown setting cluster.node "),
    (
        '[node]\nid="a"\ndata_dir="d"\n[cluster]\nid="c"\nnodes=[]',
        "to join them it needs node.address",
    ),
    ('[node]\nid="a"\ndata_dir="d"\n[cluster]\nid="c"\nnodes=1', "cluster.nodes must be a list"),
    (SMALLEST.replace("[cluster]", '[cluster]\nseeds = "h:1"'), "cluster.seeds must be a list"),
    (SMALLEST.replace("[cluster]", '[cluster]\nseeds = ["h"]'), "seed 'h' is not host:port"),
    (SMALLEST.replace("[cluster]", f"[cluster]\nseeds = {['h:1'] * 65}"), "65 seeds; at most 64"),
    (SMALLEST.replace("[node]", '[node]\naddress = "h:2"'), "are for a node that joins"),
    (SMALLEST.replace("[node]", "[node]\nweight = 2"), "node.address is missing"),
    (SMALLEST + 'zone = "' + "z" * 65 + '"', "the zone has 65 characters; at most 64"),
    (SMALLEST + 'zone = "a\\nb"', "the zone 'a\\nb' cannot be printed"),
    (SMALLEST + '[swim]\nprofile = "moon"', "swim.profile must be one of local, lan, wan"),
    (SMALLEST + "[swim]\nbudy = true", "unknown setting swim.budy"),
    (SMALLEST + "[swim]\nprobe_timeout_s = 0.3", "at least two probe timeouts"),
    (
        SMALLEST + "[sharding]\nmove_bytes_per_s_max = 65535",
        "sharding.move_bytes_per_s_max must be at least 65536",
    ),
    (SMALLEST + "[swim]\nsuspicion_max_mult = 0.5", "swim.suspicion_max_mult must be at least 1"),
    (SMALLEST + "[swim]\nawareness_max = -1", "swim.awareness_max must be from 0 to 64"),
    (SMALLEST + "[swim]\npiggyback_bytes_max = 100", "swim.piggyback_bytes_max must be from 1024"),
    (SMALLEST + "[swim]\ngossip_interval_s = 0", "swim.gossip_interval_s must be above 0"),
    ('[node]\nid="a"\ndata_dir="d"\n[cluster]\nid="c"\nnodes=[1]', "cluster.nodes[0] must be"),
    (SMALLEST + "wieght = 2", "unknown setting cluster.nodes[0].wieght"),
    (SMALLEST + "weight = 0", "weight must be from 0.01 to 100.0, not 0.0"),
    (changed("127.0.0.1:7401", "h" * 251 + ":7401"), "is not host:port"),
    (changed("127.0.0.1:7401", "é" * 126 + ":7401"), "is not host:port"),
    (SMALLEST + "weight = nan", "weight must be from"),
    (SMALLEST + "weight = 1e9", "weight must be from"),
    (SMALLEST + "weight = true", "cluster.nodes[0].weight must be a number, not True"),
    (changed("127.0.0.1:7401", "nowhere"), "'nowhere' is not host:port"),
    (SMALLEST + SECOND_NODE % ("n1", "h:1"), "two nodes share the id or address"),
    (SMALLEST + SECOND_NODE % ("n2", "127.0.0.1:7401"), "two nodes share the id or address"),
    (SMALLEST + SECOND_NODE % ("n 2", "h:1"), "node id 'n 2'"),
    (SMALLEST + SECOND_NODE % ("../n2", "h:1"), "node id '../n2'"),
    (changed('[node]\nid = "n1"', '[node]\nid = "n7"'), "'n7' is not among cluster.nodes"),
    (changed('id = "c"', 'id = "c"\nshards = 12'), "a power of two from 1 to 1024, not 12"),
    (changed('id = "c"', 'id = "c"\nshards = 0'), "a power of two"),
    (changed('id = "c"', 'id = "c"\nshards = 2048'), "a power of two"),
    (changed('id = "c"', 'id = "c"\nshards = 8.0'), "cluster.shards must be a whole number"),
    (changed('id = "c"', 'id = "c"\nreplicas = 2'), "to the number of nodes (1), not 2"),
    (changed('id = "c"', 'id = "c"\nreplicas = 0'), "cluster.replicas must be from 1"),
    (changed("[cluster]", "admin_port = 65536\n[cluster]"), "admin_port must be from 0 to 65535"),
    (changed("[cluster]", "admin_port = 7401\n[cluster]"), "is the node's own port"),
    (changed("[cluster]", 'log_level = "loud"\n[cluster]'), "debug, info, warning, error"),
    (with_setting("heartbeat_interval = 1.0"), "unknown setting raft.heartbeat_interval "),
    (with_setting("heartbeat_interval_s = true"), "must be a number, not True"),
    (with_setting("heartbeat_interval_s = 0"), "must be above 0 and finite, not 0.0"),
    (with_setting("heartbeat_interval_s = nan"), "must be above 0 and finite, not nan"),
    (with_setting("election_timeout_s_max = inf"), "must be above 0 and finite, not inf"),
    (with_setting("lease_reads = 1"), "raft.lease_reads must be true or false, not 1"),
    (with_setting("inflight_messages_max = true"), "must be a whole number, not True"),
    (with_setting("election_timeout_s_min = 0.19"), "at least two heartbeat intervals"),
    (with_setting("election_timeout_s_max = 0.4"), "must not be below election_timeout_s_min"),
    (with_setting("clock_drift_max = 1.0"), "must be below 1"),
    (with_setting("snapshot_chunk_bytes = 8_388_609"), "at most half of limits.frame_bytes_max"),
    (with_setting("append_bytes_max = 8_388_609"), "at most half of limits.frame_bytes_max"),
    (with_setting("lane_bytes_max = 16_777_215", "limits"), "must not be below limits.frame_"),
    (with_setting("outbound_bytes_max = 33_554_431", "limits"), "at least twice limits.frame_"),
    (with_setting("value_bytes_max = 16_777_216", "limits"), "must hold the largest key and value"),
    (with_setting("frame_bytes_max = 4_294_967_296", "limits"), "at most 1073741824 (1 GiB)"),
    (with_setting("segment_bytes = 1000", "wal"), "wal.segment_bytes must be at least 1 MiB"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_configuration_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        config.parse(text, source="my.toml")
    assert caught.value.message.startswith("my.toml: ")
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.toml"
    with pytest.raises(ConfigError) as refused:
        config.load(path)
    assert refused.value.message == f"{path}: cannot be read: No such file or directory"


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(path)


@pytest.mark.parametrize("section", [RaftConfig, WalConfig, EngineConfig, LimitsConfig])
def test_settings_that_have_a_unit_end_in_it(section: Any) -> None:
    plain = {"phi_threshold", "lease_reads", "clock_drift_max", "background_jobs"}
    for setting in dataclasses.fields(section):
        assert setting.name in plain or re.search(r"_(s|ms|bytes|max)(_min|_max)?$", setting.name)
