"""All faults, and which of them may happen together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos import disk_faults, network_faults, process_faults

if TYPE_CHECKING:
    from chaos.cluster import Cluster
    from chaos.target import Fault

NETWORK = network_faults.FAULTS
"""Any one of these may come together with any one of the others."""
EXTRA = process_faults.EXTRA


def on_nodes(cluster: Cluster) -> dict[str, Fault]:
    """What this machine allows to be done to processes and their disks; one at a time."""
    faults = dict(process_faults.FAULTS)
    if cluster.nodes[0].shim is not None:
        faults |= process_faults.WITH_SHIM | disk_faults.WITH_SHIM
    if cluster.nodes[-1].can_be_full:
        faults |= disk_faults.WHERE_IT_CAN_BE_FULL
    return faults
