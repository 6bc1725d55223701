"""The process around a node: its signals, its exit code, and its end at the latest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import uvloop

from kvstore.errors import KVError
from kvstore.server.advice import advice
from kvstore.server.node import Node
from kvstore.server.open_files import allow_many

if TYPE_CHECKING:
    from pathlib import Path

    from kvstore.config import NodeConfig

log = logging.getLogger(__name__)

EXIT_STARTUP = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The last one comes when a node's terminal is closed."""

LEAVE_S_MAX = 4.8
"""From SIGTERM to the end of the process, whatever hangs; what is acknowledged is in the log."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter while the loop waits for it."""


def run(config: NodeConfig, config_file: Path | None = None) -> int:
    """Run one node until SIGTERM, SIGINT or SIGHUP; the result is the process's exit code.

    ``config_file`` is where ``config`` comes from, for the advice after a failed start.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=config.log_level.upper(),
        format=f"%(asctime)s.%(msecs)03d %(levelname)-7s {config.node_id} %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    allow_many()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return uvloop.run(_serve(config, config_file))


async def _serve(config: NodeConfig, config_file: Path | None = None) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        if not stop.is_set():
            stop.set()
            # From the signal on, for it may come in the middle of a long recovery.
            _leave_at_the_latest(LEAVE_S_MAX)

    for number in STOP_SIGNALS:
        # What nohup ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, begin_to_stop)
    async with contextlib.AsyncExitStack() as running:
        try:
            node = await running.enter_async_context(Node(config))
        except (KVError, OSError) as error:
            help_ = advice(error, config_file)
            sys.stderr.write(f"{config.node_id}: cannot start: {error}{help_}\n")
            return EXIT_STARTUP
        await stop.wait()
        log.info("stopping")
        await node.hand_over()
        await node.leave()
    return 0


def _leave_at_the_latest(seconds: float) -> None:
    """A disk or thread that hangs must not keep a process that was told to stop."""

    def leave() -> None:
        log.error("not stopped after %g s: leaving, the log will bring back the rest", seconds)
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
