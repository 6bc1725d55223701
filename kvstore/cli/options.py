"""The options that every command takes, before its name or after it.

Each level of the command line (``kv``, ``kv cluster``, ``kv cluster status``) declares the
same options; whichever is given writes into the one :class:`Settings` of the run, so the one
nearest to the command's own arguments wins.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvstore.cli.output import FORMATS
from kvstore.config.settings import WEIGHT_MAX, WEIGHT_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_S_DEFAULT = 5.0
DIRECTORY_DEFAULT = ".kv"


@dataclass(slots=True)
class Settings:
    """What the common options said; None where an option was not given."""

    endpoints: str | None = None
    output: str | None = None
    timeout: float | None = None
    directory: Path | None = None
    is_write: bool = False
    """Set by a command once its failure may leave something changed."""

    @property
    def format(self) -> str:
        """One of :data:`kvstore.cli.output.FORMATS`."""
        return self.output or "simple"

    @property
    def timeout_s(self) -> float:
        """How long a call of the store may take."""
        return TIMEOUT_S_DEFAULT if self.timeout is None else self.timeout

    @property
    def cluster_directory(self) -> Path:
        """Where the local cluster lives."""
        return self.directory or Path(DIRECTORY_DEFAULT)


def seconds(text: str) -> float:
    """A finite number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise click.BadParameter(f"{text!r} is not a number of seconds above 0")
    return number


def weight(text: str) -> float:
    """A node's part of the load in relation to the others'."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not WEIGHT_MIN <= number <= WEIGHT_MAX:
        raise click.BadParameter(f"{text!r} is not a weight from {WEIGHT_MIN} to {WEIGHT_MAX:g}")
    return number


def whole_number(at_least: int | None = None) -> Callable[[str], int]:
    """An option's type: a whole number, of at least ``at_least`` if that is given."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a whole number") from None
        if at_least is not None and number < at_least:
            raise click.BadParameter(f"{number} is less than {at_least}")
        return number

    return read


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.ensure_object(Settings), str(param.name), value)


class _Directory(click.Path):
    """A directory that has a name: an empty one, of a variable not set, is not the present one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty: use . for the working directory", param, ctx)
        return super().convert(value, param, ctx)


class CommonOption(click.Option):
    """An option that belongs to every command; help lists it apart."""

    def __init__(self, declarations: list[str], help_: str, type_: Any, metavar: str) -> None:
        super().__init__(
            declarations,
            help=help_,
            type=type_,
            metavar=metavar,
            callback=_remember,
            expose_value=False,
        )


def common_options() -> list[click.Parameter]:
    """A fresh set of the common options, for one command or group."""
    return [
        CommonOption(
            ["--endpoints"],
            "Nodes to talk to; any one that answers is enough.  [env: KV_ENDPOINTS; default: "
            "the cluster in --dir, else 127.0.0.1:7401]",
            str,
            "HOST:PORT,...",
        ),
        CommonOption(
            ["-o", "--output"],
            "How results are written.  [default: simple]",
            click.Choice(FORMATS),
            "|".join(FORMATS),
        ),
        CommonOption(
            ["--timeout"],
            "How long to keep trying.  [default: 5; verify, starting and stopping nodes: 30; "
            "draining and removing nodes: as long as it takes]",
            seconds,
            "SECONDS",
        ),
        CommonOption(
            ["--dir", "directory"],
            "Directory of a local cluster.  [default: .kv]",
            _Directory(path_type=Path, file_okay=False),
            "DIR",
        ),
    ]


class _CommonHelp(click.Command):
    """Adds the common options to a command and to its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["params"] = [*(kwargs.get("params") or []), *common_options()]
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options first, the common ones under a heading of their own."""
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (common if isinstance(param, CommonOption) else own).append(record)
        for title, records in (("Options", own), ("Common options", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Command(_CommonHelp):
    """A command with the common options."""


class Group(_CommonHelp, click.Group):
    """A group with the common options; its commands are imported when they are called.

    ``lazy`` maps a name to ``module:attribute``, in the order in which help shows them:
    ``kv get`` need not pay for what only ``kv cluster up`` imports.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were declared."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command if it is one of the lazy ones."""
        target = self._lazy.get(cmd_name)
        if target is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands before the options: they are what a reader looks for."""
        self.format_commands(ctx, formatter)
        _CommonHelp.format_options(self, ctx, formatter)
