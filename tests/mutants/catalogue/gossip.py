"""Who seems alive: claims, incarnations, refutation (SWIM)."""

from __future__ import annotations

from mutants.catalogue.model import mutant

GOSSIP = (
    mutant(
        "believes-whoever-spoke-last",
        "of two claims about a member the one of higher precedence is believed (SWIM §4.2)",
        (
            "swim/view.py",
            "elif claim.precedence > member.precedence:",
            "elif claim.precedence != member.precedence:",
        ),
    ),
    mutant(
        "death-outlives-a-restart",
        "a later incarnation outdoes whatever was said of an earlier one (SWIM §4.2)",
        (
            "swim/claims.py",
            "return state is State.REMOVED, incarnation, state",
            "return state is State.REMOVED, state, incarnation",
        ),
    ),
    mutant(
        "refutes-in-the-incarnation-it-is-accused-in",
        "who is accused begins an incarnation that outdoes the accusation (SWIM §4.2)",
        (
            "swim/view.py",
            "self.begin_incarnation(claim.incarnation + 1)",
            "self.begin_incarnation(claim.incarnation)",
        ),
    ),
    mutant(
        "bears-an-accusation",
        "who hears that it is accused says that it lives (SWIM §4.2)",
        (
            "swim/view.py",
            "elif claim.precedence > own.precedence or _is_of_another(claim, own):",
            "elif _is_of_another(claim, own):",
        ),
    ),
    mutant(
        "writes-down-what-it-has-said-only-later",
        "after a crash a node begins in an incarnation that it has never spoken in",
        (
            "server/membership.py",
            "INCARNATIONS_RESERVED: Final = 8",
            "INCARNATIONS_RESERVED: Final = 0",
        ),
    ),
)
