"""``kv repair``: find out whether a stopped node's data is lost, and begin a new life without.

The node comes back empty and with no part in its groups; their leaders take it in again, as a
learner and then as a voter (:mod:`kvstore.server.rejoin`). Whatever it alone still had is
given up. That is right for a replica that cannot be trusted, and a waste for one that can:
hence a healthy directory is left alone unless somebody insists.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvstore.errors import InvalidArgument, StartupError, of_file
from kvstore.server.checkup import check_up
from kvstore.server.data_directory import owner_of
from kvstore.storage import renewal
from kvstore.storage.renewal import open_renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvstore.config import ClusterConfig, NodeConfig
    from kvstore.storage.renewal import Renewal, Renewed

REPLICAS_MIN = 3
"""With fewer, a group that lost one has no majority that could take in another."""


class Repair:
    """A stopped node's data directory, locked."""

    def __init__(self, config: NodeConfig, opened: Renewal) -> None:
        self._config = config
        self._renewal = opened

    def examine(self, tell: Callable[[str], None]) -> str | None:
        """See whether the data is lost or damaged, as the node's own start would.

        Args:
            tell: Called with what is being looked at.

        Returns:
            What is wrong, with file and offset where there is one; None if nothing is.

        Raises:
            KVError: It could not be found out, for another reason than lost or damaged data.
        """
        known = self._renewal.damage
        if known is not None:
            return known.message
        life = self._renewal.life
        assert life is not None
        try:
            has_map = self._renewal.has_map
            has_data = asyncio.run(check_up(self._config, life, has_map=has_map, tell=tell))
        except StartupError as error:
            if not error.is_repairable:
                raise
            return error.message
        if not has_data:
            where = self._config.data_dir
            return f"data directory {where} holds no data: it is new, or it was lost"
        return None

    def renew(self, wall_s: int, *, keep: bool) -> Renewed:
        """Set the old data aside and make the directory that of a new life.

        Args:
            wall_s: The wall clock, whole seconds since the Unix epoch.
            keep: Whether the old data stays there; else it is removed.

        Raises:
            StartupError: It cannot be done; nothing was changed, or what is left undone is
                done by another repair, and until then the node does not start. Or it is done,
                but for the removal.
        """
        try:
            renewed = self._renewal.renew(wall_s)
        except OSError as error:
            where = of_file(error, self._config.data_dir)
            raise StartupError(
                f"{self._config.node_id} could not be repaired: {where}; try it again"
            ) from error
        try:
            if not keep:
                renewal.discard(renewed)
        except OSError as error:
            raise StartupError(
                f"{self._config.node_id} is repaired, but its old data could not be removed: "
                f"{of_file(error, renewed.set_aside)}"
            ) from error
        return renewed


@contextmanager
def opened(config: NodeConfig) -> Iterator[Repair]:
    """Hold the data directory of the node that ``config`` describes.

    Raises:
        InvalidArgument: the cluster could never take the node in again.
        DataDirectoryError: the node runs, or the directory is not its own or unreadable.
    """
    check_can_come_back(config.cluster)
    held = open_renewal(config.data_dir, owner_of(config))
    try:
        yield Repair(config, held)
    finally:
        held.release()


def check_can_come_back(cluster: ClusterConfig) -> None:
    """Refuse what would lose shards for good.

    Raises:
        InvalidArgument: without this node's replicas no majority is left.
    """
    if cluster.replicas < REPLICAS_MIN:
        copies = "1 replica" if cluster.replicas == 1 else f"{cluster.replicas} replicas"
        raise InvalidArgument(
            f"each shard has {copies}: without this node's there is no majority that could "
            "take it in again; restore the data directory from a copy"
        )
