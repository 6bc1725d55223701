"""One log line per cause, not one per retry."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

_CAUSES_MAX: Final = 1024
QUIET_S: Final = 600.0


class RepeatFilter:
    """Tells the first occurrence of a cause from those that follow it.

    A cause counts as new again once it has not occurred for ``quiet_s``, or when so many
    others came that it was forgotten. Memory is bounded, so strangers can cause nothing but
    a line now and then.
    """

    def __init__(self, quiet_s: float = QUIET_S) -> None:
        self._quiet_s = quiet_s
        self._last_s: OrderedDict[Hashable, float] = OrderedDict()

    def is_new(self, cause: Hashable, now: float) -> bool:
        """Note that ``cause`` occurs at ``now`` (seconds); whether to speak of it."""
        last_s = self._last_s.pop(cause, None)
        self._last_s[cause] = now
        if len(self._last_s) > _CAUSES_MAX:
            self._last_s.popitem(last=False)
        return last_s is None or now - last_s > self._quiet_s

    def forget(self, cause: Hashable) -> None:
        """The cause is over; should it come back, it is new."""
        self._last_s.pop(cause, None)
