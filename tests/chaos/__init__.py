"""Chaos on real processes: a cluster, clients, a proxy between all nodes, and who does harm.

``shim`` (what a disk forgets), ``proxy`` (what a network does), ``cluster`` (processes and
their files), ``clients`` (the load and its books), ``faults`` and ``nemesis`` (harm, each time
with proof that it bit), ``verdict`` (what must hold at the end), ``report`` and ``plot`` (what
it came to), ``__main__``.
"""
