"""``python -m histories FILE [--steps-max N]``: check a history kept in a file."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from histories.checker import STEPS_MAX, check
from histories.files import HistoryFileError, load

_STEPS_DIGITS_MAX: Final = 18


def _steps(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _STEPS_DIGITS_MAX
    if not is_number or int(text) == 0:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no number of steps, 1 or more, of at most {_STEPS_DIGITS_MAX} digits"
        )
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Bad usage is one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Print the verdict; 0 linearizable, 1 a violation or undecided, 2 no history to check."""
    parser = _Parser(prog="histories", description="Check a history for linearizability.")
    parser.add_argument("file")
    parser.add_argument("--steps-max", type=_steps, default=STEPS_MAX, metavar="N")
    options = parser.parse_args(arguments)
    try:
        history = load(options.file)
    except HistoryFileError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    verdict = check(history, steps_max=options.steps_max)
    sys.stdout.write(f"{verdict.outcome.value}: {verdict.explanation}\n")
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
