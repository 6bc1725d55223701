"""Chaos on real processes: a cluster, clients, a proxy between all nodes, and a nemesis.

``shim`` and ``shim.c`` (what a disk forgets), ``listener``, ``proxy`` and ``retries`` (what a
network does), ``cluster`` (processes and their files), ``clients`` and ``history`` (the
workload, and what it was told), ``target`` and the faults of processes, network and disks, each
with proof that it bit, ``nemesis`` (which comes when), ``verdict`` (what must hold at the end),
``report`` and ``plot`` (what it came to), ``run`` (all of it once), ``__main__``.
"""
