"""All nodes of a local cluster: make, start, stop, remove.

One command at a time starts or stops nodes of a directory (:func:`locked`); looking and
signalling a single node need no lock. Whatever a failed start has started is stopped again,
and what a failed *first* start has made is removed, so that the next try is free to differ.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import secrets
import shutil
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from kvstore.cli.launcher import layout as layouts
from kvstore.cli.launcher import ports
from kvstore.cli.launcher.layout import ClusterSpec, Layout
from kvstore.cli.launcher.node import POLL_S, Node
from kvstore.cli.launcher.process import State
from kvstore.config import REPLICAS_DEFAULT
from kvstore.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options of ``kv cluster up`` asked for; None where they said nothing."""

    nodes: int | None = None
    shards: int | None = None
    replicas: int | None = None
    base_port: int | None = None

    def given(self) -> dict[str, int]:
        """Only what was asked for."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in its directory and the processes of its nodes."""

    layout: Layout
    nodes: tuple[Node, ...]
    former: tuple[Node, ...] = ()
    """No members any more; whatever still runs of them is only to be stopped."""
    is_new: bool = False
    """Made by this very command."""

    @property
    def directory(self) -> Path:
        """Where it lives, as the user named it."""
        return self.layout.directory

    def node(self, node_id: str) -> Node:
        """The node called ``node_id``; raises InvalidArgument naming the known ones."""
        files = self.layout.node(node_id)
        return next(node for node in self.nodes if node.files == files)

    def alive(self) -> list[Node]:
        """Nodes, former ones among them, whose process runs or is paused."""
        every = (*self.nodes, *self.former)
        return [node for node in every if node.state() is not State.DEAD]

    def start_dead(self) -> list[Node]:
        """Start every node that does not live; those that were started."""
        dead = [node for node in self.nodes if node.state() is State.DEAD]
        for node in dead:
            node.start()
        return dead


def load(directory: Path) -> Cluster:
    """The cluster in ``directory``; raises InvalidArgument when there is none."""
    return of_layout(layouts.load(directory))


@contextmanager
def opened(directory: Path, wanted: Wanted) -> Iterator[Cluster]:
    """Hold the cluster in ``directory``, made as ``wanted`` when there is none yet.

    Raises:
        InvalidArgument: ``wanted`` cannot be, or differs from what the cluster was made with.
        Unavailable: another command is starting or stopping its nodes.
    """
    if not layouts.cluster_file(directory).exists():
        _new_spec(wanted)  # refuse before anything is made
    with locked(directory):
        if layouts.cluster_file(directory).exists():
            found = layouts.load(directory)
            _refuse_conflict(found, wanted)
            yield of_layout(found)
        else:
            layout = Layout(directory, _new_spec(wanted))
            layouts.save(layout)
            yield dataclasses.replace(of_layout(layout), is_new=True)


def of_layout(layout: Layout) -> Cluster:
    """The cluster that ``layout`` describes."""
    nodes, former = (tuple(map(Node, files)) for files in (layout.nodes, layout.former))
    return Cluster(layout, nodes, former)


def _new_spec(wanted: Wanted) -> ClusterSpec:
    given: dict[str, Any] = {**wanted.given()}
    nodes = given.get("nodes", layouts.NODES_DEFAULT)
    given.setdefault("replicas", min(REPLICAS_DEFAULT, max(1, nodes)))
    is_free_port_wanted = given.get("base_port") == 0
    if is_free_port_wanted:
        del given["base_port"]
    spec = ClusterSpec(id=f"local-{secrets.token_hex(4)}", **given)
    spec.check()
    if is_free_port_wanted:
        base_port = ports.free_base_port(nodes, random.SystemRandom())
        spec = dataclasses.replace(spec, base_port=base_port)
    return spec


def _refuse_conflict(found: Layout, wanted: Wanted) -> None:
    for name, value in wanted.given().items():
        made_with = getattr(found.spec, name)
        if value != made_with and not (name == "base_port" and value == 0):
            option = "--" + name.replace("_", "-")
            raise InvalidArgument(
                f"the cluster in {found.directory} was made with {option} {made_with}, not "
                f"{value} (leave the option out, or use another --dir)"
            )


@contextmanager
def locked(directory: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Be the only command that starts or stops nodes in ``directory``.

    Raises:
        Unavailable: another one was still at work after ``wait_s``.
    """
    deadline = time.monotonic() + wait_s
    while (lock := _take_lock(directory)) is None:
        if time.monotonic() >= deadline:
            raise Unavailable(f"another kv command is starting or stopping nodes in {directory}")
        time.sleep(POLL_S)
    with lock:
        yield


def _take_lock(directory: Path) -> BinaryIO | None:
    """The open lock file, which is locked as long as it is open; None while another has it.

    Its holder may remove it, and the directory too (:func:`clean`). Whoever had opened it then
    locks a file that has no name any more, and whoever comes later makes another one: so only
    the file that still has the name counts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = layouts.lock_file(directory)
    with ExitStack() as opened_here, suppress(BlockingIOError, FileNotFoundError):
        lock = opened_here.enter_context(path.open("ab"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            opened_here.pop_all()
            return lock
    return None


def clean(cluster: Cluster) -> list[Path]:
    """Remove what the launcher and the nodes made, and nothing else.

    Returns:
        Directories left because they hold something that is not ours.

    Raises:
        InvalidArgument: a node still lives.
    """
    alive = cluster.alive()
    if alive:
        names = ", ".join(node.id for node in alive)
        raise InvalidArgument(f"{names} still running; stop the cluster first (kv cluster down)")
    left = []
    for node in (*cluster.nodes, *cluster.former):
        left += remove_files(node)
    layouts.cluster_file(cluster.directory).unlink(missing_ok=True)
    layouts.lock_file(cluster.directory).unlink(missing_ok=True)
    return left + _remove_if_empty(cluster.directory)


def remove_files(node: Node) -> list[Path]:
    """Remove what was made for one dead node; its directory if something else lies in it."""
    files = node.files
    for path in (files.config_file, files.pid_file, files.log_file):
        path.unlink(missing_ok=True)
    if files.data_dir.exists():
        shutil.rmtree(files.data_dir)
    return _remove_if_empty(files.directory)


def _remove_if_empty(directory: Path) -> list[Path]:
    """Remove ``directory``; it is in the result when something else lies in it."""
    with suppress(FileNotFoundError):
        try:
            directory.rmdir()
        except OSError:
            return [directory]
    return []
