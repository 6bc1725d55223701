"""The state machine: what a shard's log does to its keys.

A shard is a map from keys to values in key order, and the sessions of its clients. Every
replica holds the same, because every replica applies the same log entries in the same order
and nothing else counts: no clock, no local setting, no chance. The package is pure code over
a storage engine that is given to it.

Read it in this order:

``engine``        the seam: ordered bytes, written atomically; where a shard's rows stand in it;
``values``        a value's stored form: which revisions made it, its lease, its bytes;
``limits``        why limits travel in the log;
``commands``      put, delete, compare-and-swap; a client's batch; the leader's entry;
``replies``       the answer to a batch;
``data``          commands run, keys read;
``sessions``      why a batch that arrives twice is run once;
``state_machine`` all of it together.

The way of a put: the client puts it into a *batch* for the shard, numbered in its session.
The leader joins the batches of one tick into an *entry*, gives it as many revisions as it has
commands, and proposes it, undecoded. Once committed, the entry reaches
:meth:`~kvstore.kv.state_machine.StateMachine.apply` on every replica. There each batch is
opened, looked up in its session, checked whole, and run; its reply is kept in the session and
given back, and only the leader, who has a client waiting, sends it.
"""
