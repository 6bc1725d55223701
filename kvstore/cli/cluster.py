"""``kv cluster``: a cluster of processes on this machine, for trying and for testing."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGSTOP
from typing import TYPE_CHECKING, Any

import click

from kvstore import config
from kvstore.cli import output
from kvstore.cli.exits import Exit
from kvstore.cli.launcher import cluster as clusters
from kvstore.cli.launcher import growth
from kvstore.cli.launcher import logs as log_files
from kvstore.cli.launcher.cluster import Cluster, Wanted
from kvstore.cli.launcher.foreground import run_until_stopped
from kvstore.cli.launcher.node import STOP_GRACE_S, stop
from kvstore.cli.launcher.process import State
from kvstore.cli.launcher.ready import (
    START_TIMEOUT_S,
    wait_until_led,
    wait_until_member,
    wait_until_serving,
)
from kvstore.cli.options import DIRECTORY_DEFAULT, Command, Group, Settings, weight, whole_number
from kvstore.cli.progress import progress
from kvstore.cli.repair import Chosen, repair_data, repair_options
from kvstore.cli.survey import survey_cluster
from kvstore.cli.view import leaders_per_node
from kvstore.errors import InvalidArgument, KVError, StartupError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvstore.cli.launcher.node import Node
    from kvstore.cli.view import ClusterView


@click.group(cls=Group, no_args_is_help=False)
def cluster() -> None:
    """Start, stop and hurt a cluster of processes on this machine."""


@cluster.command(cls=Command)
@click.option("--nodes", type=whole_number(), metavar="N", help="How many processes.  [default: 3]")
@click.option(
    "--shards",
    type=whole_number(),
    metavar="N",
    help=f"A power of two.  [default: {config.SHARDS_DEFAULT}]",
)
@click.option(
    "--replicas",
    type=whole_number(),
    metavar="N",
    help="Replicas of each shard.  [default: 3, or --nodes]",
)
@click.option(
    "--base-port",
    type=whole_number(),
    metavar="PORT",
    help="Node i listens on PORT + i; 0 looks for free ports.  [default: 7400]",
)
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, then stop all nodes.")
@click.pass_obj
def up(settings: Settings, /, foreground: bool, **wanted: int | None) -> int:
    """Start a cluster, or the dead nodes of one that is there.

    Returns when every shard has a leader. The nodes run in the background; their logs and
    data lie under the directory and outlive them.
    """
    with clusters.opened(settings.cluster_directory, Wanted(**wanted)) as opened:
        view = _start_dead(opened, _timeout_s(settings))
        opened, gone = growth.retire_removed(opened)
    for node in gone:
        output.note(f"kv: note: {node.id} is no member any more; it was stopped")
    _write_started(settings, opened, view)
    if not foreground:
        return Exit.OK
    output.note("Ctrl-C stops the cluster.")
    ended_by = run_until_stopped(opened, say=output.note)
    return Exit.INTERRUPTED if ended_by == SIGINT else Exit.OK


def _start_dead(opened: Cluster, timeout_s: float) -> ClusterView:
    """Start what is dead and wait for leaders; on any failure stop it all again.

    A cluster that could not even start for the first time is removed as well (its line has
    said why), so that the next ``up`` may choose another port or size.
    """
    started = opened.start_dead()
    try:
        with progress(f"Starting {len(started)} nodes") as tell:
            waiting = wait_until_led(opened, started, timeout_s=timeout_s, progress=tell)
            return asyncio.run(waiting)
    except BaseException as error:
        stop(started)
        if opened.is_new and isinstance(error, StartupError):
            clusters.clean(opened)
        if isinstance(error, Unavailable):
            error.message += f" (stopped again; logs: {_shown(opened.directory)}/n*/node.log)"
        raise


@cluster.command(cls=Command)
@click.option(
    "--weight",
    "share",
    type=weight,
    default="1",
    metavar="W",
    help="Its part of the load in relation to the others'.  [default: 1]",
)
@click.option(
    "--zone", default="", help="What fails together with it.  [default: a zone of its own]"
)
@click.pass_obj
def add(settings: Settings, share: float, zone: str) -> None:
    """Start one node more, n4 after n3, and let it join the cluster.

    Returns when it is a member. From then on its share of the replicas comes to it, which kv moves
    shows (with sharding.balances = false only after kv rebalance --now). The cluster must run; one
    that could not join leaves nothing behind.
    """
    loaded = clusters.load(settings.cluster_directory)
    with clusters.locked(loaded.directory), progress("Adding a node") as tell:
        loaded = clusters.load(settings.cluster_directory)  # as the last holder has left it
        names, last_number = asyncio.run(growth.names_used(loaded))
        number = growth.next_number(loaded.layout, names, last_number)
        grown, node = growth.add(loaded, number, weight=share, zone=zone)
        tell(f"{node.id} at {node.files.address}")
        _start_joining(grown, node, _timeout_s(settings), tell)
    if settings.format == "json":
        output.write_json(_node_json(node))
        return
    _write_nodes(settings, dataclasses.replace(grown, nodes=(node,)))
    output.line(
        f"\n{node.id} is a member. Its share of the replicas comes to it: "
        f"kv moves -f{_where(grown)}"
    )


def _start_joining(
    grown: Cluster, node: Node, timeout_s: float, tell: Callable[[str], None]
) -> None:
    """Start a node and wait until it is a member; nothing is left of one that is not.

    One that has become a member after all stays as any other: it is not to be forgotten. So
    does one of which nobody tells: what it may have promised as a member lies in its files.
    """
    try:
        node.start()
        asyncio.run(wait_until_member(grown, node, timeout_s=timeout_s, progress=tell))
    except BaseException as error:
        last_words = node.last_words()
        stop([node])
        survey = asyncio.run(survey_cluster(grown.layout.spec.config()))
        is_member = survey.shard_map is not None and survey.shard_map.has(node.id)
        if isinstance(error, Unavailable) and not is_member:
            error.message += f" (its last words: {last_words})"
        if survey.answers and not is_member:
            growth.discard(grown, node)
        elif isinstance(error, KVError):
            again = f"kv cluster restart {node.id}{_where(grown)}"
            fate = "is a member nevertheless" if is_member else "may be a member (nobody answers)"
            error.message += f"; {node.id} {fate}, and stopped ({again})"
        raise


@cluster.command(cls=Command)
@click.pass_obj
def down(settings: Settings) -> None:
    """Stop all nodes.

    SIGTERM lets them hand over and finish; those still there after 10 s are killed.
    """
    loaded = clusters.load(settings.cluster_directory)
    with clusters.locked(loaded.directory):
        alive = loaded.alive()
        with progress(f"Stopping {len(alive)} nodes"):
            late = stop(alive)
    if settings.format == "json":
        output.write_json({**_json(loaded), "killed": [node.id for node in late]})
        return
    for node in alive:
        if node in late:
            output.line(f"{node.id} killed: it did not stop within {STOP_GRACE_S:.0f} s")
        else:
            output.line(f"{node.id} stopped")
    if not alive:
        output.line("no node was running")


@cluster.command(cls=Command)
@click.argument("node_id", metavar="NODE")
@click.pass_obj
def kill(settings: Settings, node_id: str) -> None:
    """SIGKILL one node, as a crash would."""
    node = clusters.load(settings.cluster_directory).node(node_id)
    pid = node.pid()
    node.kill()
    _write_done(settings, node, f"killed (pid {pid})")


@cluster.command(cls=Command)
@click.argument("node_id", metavar="NODE")
@click.pass_obj
def pause(settings: Settings, node_id: str) -> None:
    """SIGSTOP one node: connected but silent."""
    node = clusters.load(settings.cluster_directory).node(node_id)
    node.send(SIGSTOP)
    node.wait_for(State.PAUSED)
    _write_done(settings, node, f"paused (pid {node.pid()})")


@cluster.command(cls=Command)
@click.argument("node_id", metavar="NODE")
@click.pass_obj
def resume(settings: Settings, node_id: str) -> None:
    """SIGCONT one paused node."""
    node = clusters.load(settings.cluster_directory).node(node_id)
    node.send(SIGCONT)
    node.wait_for(State.RUNNING)
    _write_done(settings, node, f"resumed (pid {node.pid()})")


@cluster.command(cls=Command)
@click.argument("node_id", metavar="NODE")
@click.pass_obj
def restart(settings: Settings, node_id: str) -> None:
    """Start one node, or stop and start it.

    Returns when it serves again, with all that was committed when it came back.
    """
    loaded = clusters.load(settings.cluster_directory)
    node = loaded.node(node_id)
    with clusters.locked(loaded.directory), progress(f"Restarting {node.id}") as tell:
        stop([node])
        node.start()
        waiting = wait_until_serving(loaded, node, timeout_s=_timeout_s(settings), progress=tell)
        try:
            view = asyncio.run(waiting)
        except Unavailable as error:
            error.message += _why_not_serving(loaded, node)
            raise
    _write_done(settings, node, f"serves again (pid {node.pid()})")
    for missing in view.missing():
        output.note(f"kv: note: {missing}")


def _why_not_serving(loaded: Cluster, node: Node) -> str:
    """What the node itself says, and what to do if it was turned away for want of its data."""
    warning = node.last_warning()
    if warning is None:
        return ""
    where = _where(loaded)
    does_need_repair = "kv repair" in warning
    advice = f"kv cluster kill {node.id}{where}; kv cluster repair {node.id}{where}"
    return f" (its last warning: {warning}{f'; here: {advice}' if does_need_repair else ''})"


@cluster.command("repair", cls=Command)
@click.argument("node_id", metavar="NODE")
@repair_options
@click.pass_obj
def repair_node(settings: Settings, /, node_id: str, **chosen: bool) -> int:
    """Let a node whose data is lost or damaged get it again from the others.

    See kv repair, which does the same for any node. The node must not run.
    """
    loaded = clusters.load(settings.cluster_directory)
    node = loaded.node(node_id)
    with clusters.locked(loaded.directory):
        if (state := node.state()) is not State.DEAD:
            advice = f"stop it first: kv cluster kill {node.id}{_where(loaded)}"
            raise InvalidArgument(f"{node.id} is {state}; {advice}")
        return repair_data(
            settings,
            config.load(node.files.config_file),
            Chosen(**chosen),
            start=f"kv cluster restart {node.id}{_where(loaded)}",
        )


@cluster.command(cls=Command)
@click.pass_obj
def status(settings: Settings) -> None:
    """Show the processes: running, paused or dead."""
    loaded = clusters.load(settings.cluster_directory)
    if settings.format == "json":
        output.write_json(_json(loaded))
    else:
        _write_nodes(settings, loaded, with_state=True)


@cluster.command(cls=Command)
@click.argument("node_id", metavar="NODE")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "-n", "--lines", type=whole_number(at_least=0), metavar="N", help="Only so many from the end."
)
@click.pass_obj
def logs(settings: Settings, node_id: str, follow: bool, lines: int | None) -> None:
    """Print what a node has written to its log."""
    node = clusters.load(settings.cluster_directory).node(node_id)
    pieces = log_files.read(node.files.log_file, lines=lines, follow=follow, pause=output.pause)
    for piece in pieces:
        output.write(piece)
        output.flush()


@cluster.command(cls=Command)
@click.pass_obj
def clean(settings: Settings) -> None:
    """Remove a stopped cluster's data, logs and settings."""
    loaded = clusters.load(settings.cluster_directory)
    with clusters.locked(loaded.directory):
        left = clusters.clean(loaded)
    if settings.format == "json":
        output.write_json({"removed": str(loaded.directory), "left": [str(d) for d in left]})
        return
    output.line(f"{_shown(loaded.directory)} removed")
    for directory in left:
        output.note(f"kv: note: {_shown(directory)} holds other files and stays")


def _timeout_s(settings: Settings) -> float:
    return START_TIMEOUT_S if settings.timeout is None else settings.timeout


def _json(loaded: Cluster) -> dict[str, Any]:
    return {"nodes": [_node_json(node) for node in loaded.nodes]}


def _node_json(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "pid": node.pid(),
        "address": node.files.address,
        "state": str(node.state()),
        "data_dir": str(node.files.data_dir),
        "log": str(node.files.log_file),
    }


def _write_done(settings: Settings, node: Node, done: str) -> None:
    if settings.format == "json":
        output.write_json(_node_json(node))
    else:
        output.line(f"{node.id} {done}")


def _write_nodes(settings: Settings, loaded: Cluster, *, with_state: bool = False) -> None:
    header = ["node", "pid", "address", "data directory", "log"]
    rows = [_row(node) for node in loaded.nodes]
    if with_state:
        header.insert(1, "state")
        for row, node in zip(rows, loaded.nodes, strict=True):
            row.insert(1, node.state())
    output.write_rows(settings.format, header, rows)


def _row(node: Node) -> list[str]:
    files = node.files
    pid = node.pid()
    return [
        node.id,
        "-" if pid is None else str(pid),
        files.address,
        _shown(files.data_dir),
        _shown(files.log_file),
    ]


def _write_started(settings: Settings, loaded: Cluster, view: ClusterView) -> None:
    """What runs now, and what to try with it."""
    if settings.format == "json":
        output.write_json(_json(loaded))
        return
    _write_nodes(settings, loaded)
    spec = loaded.layout.spec
    output.line(f"\nAll {spec.shards} shards have a leader; each has {spec.replicas} replicas.")
    for text in _suggestions(loaded, view):
        output.line(text)
    output.flush()


def _suggestions(loaded: Cluster, view: ClusterView) -> Sequence[str]:
    where = _where(loaded)
    led = leaders_per_node(view)
    victim = max(loaded.alive(), key=lambda node: led[node.id])
    addresses = ",".join(node.files.address for node in loaded.nodes)
    kill_line = f"kill -9 {victim.pid()}"
    width = max(len(kill_line), len(f"kv cluster restart {victim.id}{where}"))
    return [
        "\nTry:",
        f"  kv put greeting hello{where}",
        f"  kv get greeting{where}",
        f"  {kill_line.ljust(width)}   # {victim.id}, which leads {led[victim.id]} shards",
        f"  kv get greeting{where}",
        f"  kv cluster restart {victim.id}{where}",
        "\nFrom Python:",
        f'  async with kvstore.connect("{addresses}") as kv:',
        '      await kv.put("greeting", b"hello")',
        '      print(await kv.get("greeting"))',
    ]


def _where(loaded: Cluster) -> str:
    """The option that names this cluster, where the next command needs one."""
    is_default = loaded.directory == Path(DIRECTORY_DEFAULT)
    return "" if is_default else f" --dir {shlex.quote(str(loaded.directory))}"


def _shown(path: Path) -> str:
    """``path`` as short as it is still right from the working directory."""
    absolute, here = path.resolve(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
