"""What a client may be told when it is made; every quantity named with its unit."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.config import MIB, LimitsConfig

_LIMITS = LimitsConfig()


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Bounds and timing of one client. The defaults fit the nodes' own defaults."""

    timeout_s: float = 5.0
    """A call's deadline where the call names none."""
    cluster_id: str | None = None
    """Refuse nodes of any other cluster; None takes the cluster that answers first."""

    key_bytes_max: int = _LIMITS.key_bytes_max
    value_bytes_max: int = _LIMITS.value_bytes_max
    frame_bytes_max: int = _LIMITS.frame_bytes_max
    outbound_bytes_max: int = 4 * _LIMITS.outbound_bytes_max
    """Unsent bytes on one connection; above what ``operation_bytes_max`` lets through."""

    operations_max: int = 65_536
    """Operations queued or unanswered; beyond it a call waits its turn."""
    operation_bytes_max: int = 64 * MIB
    """Their keys and values; beyond it a call waits its turn."""
    waiting_max: int = 65_536
    """Calls that wait their turn; beyond it a call is refused as overloaded."""

    batch_commands_max: int = 4096
    batch_bytes_max: int = MIB
    """Keys and values in one frame, unless a single command has more."""
    batches_outstanding_max: int = 32
    """Unanswered batches to one shard, writes and reads counted apart."""

    dial_timeout_s: float = 1.0
    attempt_timeout_s: float = 1.0
    """How long one node may leave a request unanswered before another is asked."""
    attempt_timeout_s_max: float = 4.0
    """The attempt timeout doubles up to this, for requests that are slow everywhere."""
    breaker_open_s_min: float = 0.1
    breaker_open_s_max: float = 0.5
    """How long a node that failed is left alone; doubles with each failure in a row."""

    scan_page_rows: int = 512
    scan_bytes_max: int = 16 * MIB
    """Rows held by one scan, all shards together."""
