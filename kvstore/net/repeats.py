"""One log line per cause, not one per retry; and not too many of causes that others invent."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging
    from collections.abc import Hashable

_CAUSES_MAX: Final = 1024
QUIET_S: Final = 600.0
LINES_AT_ONCE: Final = 100
LINES_PER_MINUTE: Final = 10
_MINUTE_S: Final = 60.0


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


class FewLines:
    """A log for what anybody may cause: many lines at once, but few a minute for long.

    Of a flood of names that somebody invents each is a new cause. What is left out is counted,
    and told when a line may be written again.
    """

    def __init__(self, logger: logging.Logger, about: str) -> None:
        """Nothing is left out yet.

        Args:
            logger: Gets the lines.
            about: What they tell of, for the line that tells how many are missing.
        """
        self._logger = logger
        self._about = about
        self._allowed = float(LINES_AT_ONCE)
        self._looked_at: float | None = None
        self._left_out = 0
        self._missing_since = 0.0

    def write(self, now: float, level: int, line: str) -> None:
        """Log ``line`` at ``now`` (seconds), or leave it out."""
        self.look(now)
        if self._allowed >= 1:
            self._allowed -= 1
            self._logger.log(level, "%s", line)
            return
        if not self._left_out:
            self._missing_since = now
        self._left_out += 1

    def look(self, now: float) -> None:
        """Tell what was left out, if it is time; to be called now and then."""
        passed_s = 0.0 if self._looked_at is None else max(0.0, now - self._looked_at)
        self._looked_at = now
        gained = passed_s * LINES_PER_MINUTE / _MINUTE_S
        self._allowed = min(float(LINES_AT_ONCE), self._allowed + gained)
        if self._left_out and now - self._missing_since >= _MINUTE_S:
            self._logger.warning("%d more lines of %s were left out", self._left_out, self._about)
            self._left_out = 0
