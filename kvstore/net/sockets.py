"""What the kernel is asked to do for every TCP connection."""

from __future__ import annotations

import socket


def set_socket_options(sock: socket.socket | None, timeout_s: float) -> None:
    """Small frames leave at once; a host that vanished is noticed by the kernel."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # The rest exists on Linux; elsewhere the system's defaults hold.
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(timeout_s))),
        ("TCP_KEEPINTVL", max(1, round(timeout_s / 3))),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", max(1000, round(timeout_s * 2000))),  # milliseconds
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
