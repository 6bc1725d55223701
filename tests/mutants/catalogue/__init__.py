"""The rules of consensus, log, sessions, snapshots, moves and gossip, each broken in turn.

A mutant replaces text that stands in a file exactly once, so that it fails to apply, rather
than to bite, when the code has changed. A rule is not here if another one makes up for its
loss, so that breaking it alone does no harm that anybody could see.
"""

from __future__ import annotations

from mutants.catalogue.elections import ELECTION
from mutants.catalogue.gossip import GOSSIP
from mutants.catalogue.log import LOG
from mutants.catalogue.membership import MEMBERSHIP
from mutants.catalogue.model import Edit, Mutant
from mutants.catalogue.moves import MOVES
from mutants.catalogue.reads import READS
from mutants.catalogue.replication import REPLICATION
from mutants.catalogue.sessions import SESSIONS
from mutants.catalogue.snapshots import SNAPSHOTS

__all__ = ["CONTROL", "MUTANTS", "Edit", "Mutant"]

CONTROL = Mutant("nothing", "none: the code as it is", ())
"""Whoever catches this one catches by mistake."""

MUTANTS: tuple[Mutant, ...] = (
    *ELECTION,
    *REPLICATION,
    *READS,
    *MEMBERSHIP,
    *MOVES,
    *SESSIONS,
    *SNAPSHOTS,
    *LOG,
    *GOSSIP,
)
