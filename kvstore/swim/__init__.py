"""Membership by SWIM (Das et al. 2002) with Lifeguard (Dadgar et al. 2018), pure.

Read bottom up: ``claims`` (what can be said of a member, and which of two sayings wins),
``messages``, ``suspicion``, ``awareness``, ``broadcasts``, ``schedule``, ``awake``, ``members``,
``view`` (how claims change what is known), ``prober`` (who is probed, directly and through
others), ``exchange`` (gossip and the exchange of whole views), ``core``.

All it decides is the view: who seems alive. It never changes who holds what.
"""
