"""Consensus of one group (Raft), as pure code: input in, decisions out, no clock, no I/O.

The paper is Ongaro and Ousterhout 2014 ("Raft §…"), with Ongaro's thesis of the same year
("thesis §…") for PreVote, transfer, ReadIndex and pipelining. Read bottom up:

1. What is said: ``messages`` (between replicas) and ``ready`` (to the driver, with its duties).
2. Tools without any rule of time or role: ``quorum``, ``confchange``, ``phi``, ``log``.
3. What a leader knows of its peers: ``progress`` (one), ``tracker`` (all), ``reads``.
4. ``state``: all of it in one place, with the named transitions between the roles.
5. Rules that several roles share: ``snapshots``, ``replication``, ``membership``, ``commit``,
   ``compaction``, ``election``.
6. The roles, one small handler a message: ``follower``, ``candidate``, ``leader``.
7. The door: ``validation``, then ``dispatch`` by term and role; ``handover`` to the driver; and
   ``core``, the façade, with ``status`` for those who only look.
"""
