"""Every error a caller can see, each telling whose fault it is and what may have happened.

``retryable``: the same call may succeed later without a change by the caller.
``may_have_applied``: a write may have taken effect although the call failed.
``code``: the name by which the error travels between processes (see :func:`from_wire`).
"""

from __future__ import annotations

from typing import ClassVar


class KVError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        may_have_applied: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.default_retryable if retryable is None else retryable
        self.may_have_applied = may_have_applied


class InvalidArgument(KVError):
    """The caller's input breaks a documented rule; nothing was changed."""

    code = "invalid_argument"


class Unavailable(KVError):
    """No node could serve the call: none reachable, or no majority of the shard."""

    code = "unavailable"
    default_retryable = True


class DeadlineExceeded(KVError):
    """The call's own deadline passed before an answer came."""

    code = "deadline_exceeded"
    default_retryable = True


class Overloaded(KVError):
    """The node refused to queue more work; nothing was changed."""

    code = "overloaded"
    default_retryable = True


class DiskFull(KVError):
    """The node's disk has no room; reads go on, writes resume when there is room."""

    code = "disk_full"
    default_retryable = True


class NotLeader(KVError):
    """The asked replica does not lead the shard. ``leader`` is its best guess who does."""

    code = "not_leader"
    default_retryable = True

    def __init__(
        self,
        message: str,
        *,
        leader: str | None = None,
        address: str | None = None,
        map_version: int = 0,
        may_have_applied: bool = False,
    ) -> None:
        super().__init__(message, may_have_applied=may_have_applied)
        self.leader = leader
        self.address = address
        """Where ``leader`` listens, for whoever does not know that node."""
        self.map_version = map_version
        """Of the shard map of the node that was asked; 0 if it has none."""


class SessionExpired(KVError):
    """The session that made a retry safe is gone, so the retry was not run."""

    code = "session_expired"

    def __init__(
        self, message: str, *, may_have_applied: bool = False, welcome_at: int = 0
    ) -> None:
        """Make one.

        Args:
            message: What happened.
            may_have_applied: The batch may have been run when it came before.
            welcome_at: A revision; the shard lets a new session in that was created then.
        """
        super().__init__(message, may_have_applied=may_have_applied)
        self.welcome_at = welcome_at
        """See above; 0 if the shard did not say."""


class Refused(KVError):
    """The other side turned this connection away: wrong cluster, protocol or identity."""

    code = "refused"


class Removed(Refused):
    """The other side says that this node was removed from the cluster, which is for good."""

    code = "removed"


class ProtocolError(KVError):
    """Bytes that are not a well-formed frame or message; the stream cannot be trusted."""

    code = "protocol_error"


class ClockAhead(KVError):
    """A peer's clock is further ahead of ours than the configured bound."""

    code = "clock_ahead"


class Internal(KVError):
    """A bug or a failing machine on the node's side; its log says more."""

    code = "internal"


class StartupError(KVError):
    """A node cannot start; one line says why and what to do. Exit code 2."""

    code = "startup"
    is_repairable = False
    """Stored bytes are lost or damaged: ``kv repair`` lets the others give them again."""


class ConfigError(StartupError):
    """The configuration is broken: which setting, what is wrong, what is allowed."""

    code = "config"


class DataDirectoryError(StartupError):
    """The data directory is in use, belongs elsewhere, is too new, or lost its identity."""

    code = "data_directory"

    def __init__(self, message: str, *, is_repairable: bool = False) -> None:
        super().__init__(message)
        self.is_repairable = is_repairable


class CorruptionError(StartupError):
    """Stored bytes fail their checksum where no crash could have torn them."""

    code = "corruption"
    is_repairable = True

    def __init__(self, message: str, *, file: str, offset: int) -> None:
        super().__init__(f"{file}: offset {offset}: {message}")
        self.file = file
        self.offset = offset


_WIRE_ERRORS: dict[str, type[KVError]] = {
    error.code: error
    for error in (
        InvalidArgument,
        Unavailable,
        DeadlineExceeded,
        Overloaded,
        DiskFull,
        NotLeader,
        SessionExpired,
        Refused,
        Removed,
        ProtocolError,
        ClockAhead,
        Internal,
    )
}


def of_file(error: OSError, path: object) -> str:
    """The file and what the system says of it, in one line, without the error's number.

    Args:
        error: of the system.
        path: what is named if the error itself names nothing.
    """
    return f"{error.filename or path}: {error.strerror or error}"


def copy_of(error: KVError) -> KVError:
    """The same error without its past: no traceback, no cause, no context.

    Those hold the frames it went through, and so all that was being worked on; and they grow
    whenever it is raised. Hence a copy for whoever keeps an error, and for each that gets it.
    """
    twin = error.__class__.__new__(error.__class__)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    return twin


def from_wire(code: str, message: str, *, may_have_applied: bool = False) -> KVError:
    """Rebuild an error that another process sent; an unknown code becomes ``Internal``."""
    return _WIRE_ERRORS.get(code, Internal)(message, may_have_applied=may_have_applied)
