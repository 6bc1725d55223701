"""How fast membership works: three profiles, and every knob of them (SWIM, Lifeguard).

``N`` is the number of members that are alive or suspected; ``h`` is the local health, from 0
(well) to ``awareness_max``. A probe takes ``probe_interval_s``; a member that died is found by
the first of the others after about e/(e-1) = 1.6 intervals, whatever N is (SWIM section 5),
then suspected, then dead, then known to all after a few gossip rounds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SwimConfig:
    """One profile; the defaults are those of ``local``."""

    probe_interval_s: float = 0.4
    """One member is probed every ``probe_interval_s · (h + 1)``: each one, in random order,
    once in N - 1 intervals."""
    probe_timeout_s: float = 0.15
    """A probe unanswered for ``probe_timeout_s · (h + 1)`` is tried through others; it has
    failed at the end of its interval."""
    indirect_probes: int = 3
    """Members asked to probe on our behalf. One that cannot reach the target either says so
    (nack) after ``0.8 · probe_timeout_s``."""
    suspicion_mult: float = 3.0
    """A suspect that several members accuse is dead after
    ``min = suspicion_mult · max(1, log10(N)) · probe_interval_s``."""
    suspicion_max_mult: float = 6.0
    """One that only we accuse, after ``max = suspicion_max_mult · min``. With ``c`` others of
    ``k``: ``max(min, max - (max - min) · ln(c + 1) / ln(k + 1))`` (Lifeguard section IV-B)."""
    suspicion_confirmations: int = 3
    """``k`` above, or N - 2 where that is less: so many accusers beside us make it ``min``."""
    awareness_max: int = 8
    """``h`` at its worst; 0 switches local health off (Lifeguard section IV-A)."""
    retransmit_mult: int = 4
    """Each piece of news is sent ``retransmit_mult · ceil(log10(N + 1))`` times by whoever
    hears it for the first time (SWIM section 4.1)."""
    gossip_interval_s: float = 0.1
    """While there is news, it is sent this often, beside what probes carry."""
    gossip_fanout: int = 3
    """To so many random members at a time."""
    piggyback_bytes_max: int = 1200
    """News in one message; what does not fit waits for the next."""
    push_pull_interval_s: float = 5.0
    """The whole view is exchanged with one random member, and with one seed that is no member,
    about every ``push_pull_interval_s · max(1, N / 32)``, so that its cost does not grow with N."""
    reconnect_interval_s: float = 1.0
    """About how often one of the dead is asked whether it is back; this is how the two sides of
    a healed partition find each other. Whoever knows nobody else asks its seeds as often, or once
    a second if that is more."""
    late_s_max: float = 0.1
    """If this process ran later than it wanted by more than this, it was frozen or starved: that
    time says nothing about others, and for so long again what has come in meanwhile is read
    before anything falls due."""
    buddy: bool = True
    """Tell a suspect in the first message to it that it is suspected (Lifeguard section IV-C)."""
    forget_after_s: float = 24 * 3600.0
    """How long the dead and those who left are still listed."""


LOCAL: Final = SwimConfig()
"""For processes of one machine: dead in about 2 s."""

LAN: Final = dataclasses.replace(
    LOCAL,
    probe_interval_s=1.0,
    probe_timeout_s=0.5,
    suspicion_mult=4.0,
    gossip_interval_s=0.2,
    push_pull_interval_s=30.0,
    reconnect_interval_s=10.0,
    late_s_max=0.25,
)
"""For one data centre: dead in about 5 s."""

WAN: Final = dataclasses.replace(
    LAN,
    probe_interval_s=5.0,
    probe_timeout_s=2.0,
    suspicion_mult=6.0,
    gossip_interval_s=0.5,
    gossip_fanout=4,
    push_pull_interval_s=60.0,
    reconnect_interval_s=30.0,
    late_s_max=1.0,
)
"""Across the world: patience for long and lossy lines; dead in about 40 s."""

PROFILES: Final = {"local": LOCAL, "lan": LAN, "wan": WAN}
