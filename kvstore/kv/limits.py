"""The limits under which an entry is applied.

They come from the configuration, and two nodes may be configured differently, for a moment
during a rolling change or by mistake. Would each replica apply an entry under its own limits,
one could refuse what another runs, and they would differ for ever. So the leader writes its
limits into the entry (see :mod:`kvstore.kv.commands`), and every replica obeys those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from kvstore.config import LimitsConfig

U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1


class ApplyLimits(NamedTuple):
    """What one entry says about how to apply it."""

    key_bytes_max: int
    value_bytes_max: int
    session_ttl_ms: int
    """A session idle for longer, by the log's own time, expires."""
    sessions_max: int
    """Sessions in the shard; beyond it the least recently active one expires."""

    @classmethod
    def of(cls, config: LimitsConfig) -> ApplyLimits:
        """The limits of a node's configuration."""
        return cls(
            key_bytes_max=min(config.key_bytes_max, U32_MAX),
            value_bytes_max=min(config.value_bytes_max, U32_MAX),
            session_ttl_ms=min(max(round(config.session_ttl_s * 1000), 1), U64_MAX),
            sessions_max=min(config.sessions_per_shard_max, U32_MAX),
        )
