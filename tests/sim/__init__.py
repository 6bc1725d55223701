"""Whole clusters of the real code on a simulated network, disk and clock; one seed, one run.

Real: the Raft cores, the driver, shard hosts, applying, snapshots, the state machine, client
requests, the wire format, the log with its format, writer and recovery. Simulated: time,
chance, the network, files, the engine's memory and disk. Nothing here knows a thread, a
socket or the real clock, and nothing depends on the order of a hash: the same seed gives the
same trace to the byte.

Read it in this order: ``world`` (time and chance), ``disk``, ``engine``, ``log``, ``network``,
``node`` (one process), ``clients``, ``checks`` (what must hold), ``swarm`` (what a seed
draws), ``nemesis`` (who does harm), ``run`` (one seed from begin to end), ``__main__``.

The model is FoundationDB's simulation (Zhou et al., SIGMOD 2021, section 4); that each seed
draws which faults are on is swarm testing (Groce et al., ISSTA 2012).
"""
