"""Groups that come to nodes and leave them, by the shard map (DESIGN section 5)."""

from __future__ import annotations

from mutants.catalogue.model import Mutant, mutant

MOVES: tuple[Mutant, ...] = (
    mutant(
        "reports-what-is-not-committed",
        "only a configuration that is committed is told to the meta group",
        (
            "server/reshaper.py",
            "if change is not None and host.core.config == host.core.committed_config:",
            "if change is not None:",
        ),
    ),
    mutant(
        "takes-out-before-it-brings-in",
        "one joint change brings in who comes and takes out who goes",
        (
            "server/reshaping.py",
            "    coming = {name: _as_it_lives(",
            "    if voters.keys() - wanted:\n"
            "        kept = frozenset(real for name, real in voters.items() if name in wanted)\n"
            "        return Step(kept, frozenset(config.learners))\n"
            "    coming = {name: _as_it_lives(",
        ),
    ),
    mutant(
        "brings-in-who-has-not-caught-up",
        "a learner that has nearly all of the log becomes a voter, and no other",
        (
            "server/reshaping.py",
            "if any(real is None or not is_caught_up(real) for real in coming.values()):",
            "if None in coming.values():",
        ),
    ),
    mutant(
        "comes-back-under-its-old-id",
        "each copy of a shard has an id of its own for all time",
        (
            "sharding/changes.py",
            "        stays[group] += 1\n",
            "",
        ),
    ),
    mutant(
        "puts-a-map-in-the-place-of-another",
        "a map only ever follows the one that it was made from",
        (
            "server/controller.py",
            "command = (commands.CAS, MAP_KEY, before, encode_map(after))",
            "command = (commands.PUT, MAP_KEY, encode_map(after))",
        ),
    ),
    mutant(
        "goes-by-an-older-map-again",
        "the map that a node goes by gives way to a newer one only",
        (
            "server/map_exchange.py",
            "if shard_map.version > self.version and self._can_follow(node, shard_map):",
            "if self._can_follow(node, shard_map):",
        ),
        (
            "server/map_exchange.py",
            "        if shard_map.version > self.version:\n",
            "        if True:\n",
        ),
    ),
    mutant(
        "acts-before-the-map-is-durable",
        "a map is on the disk before anything is done that it says",
        (
            "server/holdings.py",
            "        await loop.run_in_executor(None, lambda: self._write_down(body))\n",
            "",
        ),
        (
            "server/holdings.py",
            "                await self._come(group, replica, shard_map.shards)\n",
            "                await self._come(group, replica, shard_map.shards)\n"
            "        await loop.run_in_executor(None, lambda: self._write_down(body))\n",
        ),
    ),
    mutant(
        "comes-without-a-word-in-the-log",
        "the log says whose records come next before there are any",
        (
            "server/holdings.py",
            "        await self._logged(records.encode_replica(group, replica))\n",
            "",
        ),
    ),
    mutant(
        "leaves-without-a-word-in-the-log",
        "the log says that a group has left before its rows go",
        (
            "server/holdings.py",
            "        await self._logged(records.encode_replica(group, NO_REPLICA))\n",
            "",
        ),
    ),
    mutant(
        "begins-with-the-rows-of-another",
        "a replica that comes begins with nothing",
        (
            "storage/stays.py",
            "        batch.delete_range(start, end)\n    batch.put(",
            "        pass\n    batch.put(",
        ),
    ),
    mutant(
        "leaves-its-rows-behind",
        "of a group that has left the engine keeps nothing",
        (
            "storage/stays.py",
            "    batch.delete_range(*shard_range(shard_of_group(group)))\n    batch.delete(",
            "    batch.delete(",
        ),
    ),
    mutant(
        "overlooks-what-should-have-left",
        "a start does the rest of what a crash left undone",
        (
            "server/groups.py",
            "tuple(sorted(there - holding.replicas.keys()))",
            "()",
        ),
    ),
    mutant(
        "goes-on-with-the-log-of-another",
        "a log that says who comes makes void what was before",
        (
            "storage/replay.py",
            "            self.logs[record.group] = RecoveredLog(replica=replica)\n",
            "            self.logs.setdefault(record.group, RecoveredLog()).replica = replica\n",
        ),
        (
            "storage/replay.py",
            "        self.logs.pop(record.group, None)\n",
            "",
        ),
    ),
    mutant(
        "speaks-on-after-it-has-left",
        "a replica that has left says nothing more",
        (
            "server/shard_host.py",
            "        self.has_left = True\n",
            "",
        ),
    ),
    mutant(
        "removes-a-node-that-holds-something",
        "whoever is to be removed goes when it holds nothing",
        (
            "sharding/farewells.py",
            "if node.state is NodeState.REMOVING and not shard_map.held_by(node.id)",
            "if node.state is NodeState.REMOVING",
        ),
        (
            "sharding/steering.py",
            "if is_leaving and not shard_map.held_by(node.id):",
            "if is_leaving:",
        ),
        (
            "sharding/changes.py",
            "    if shard_map.held_by(node):\n",
            "    if False:\n",
        ),
    ),
    mutant(
        "removes-a-node-as-it-gives-up-its-last",
        "whoever is to be removed goes by a later version than the one that takes its last replica",
        (
            "sharding/steering.py",
            "node.state is NodeState.REMOVING and node.id in known.may_go",
            "node.state is NodeState.REMOVING",
        ),
    ),
)
