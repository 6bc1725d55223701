"""Every test of this folder runs on the plain loop and on the one used in production."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@pytest.hookimpl(optionalhook=True)  # pytest-asyncio 1.4; an earlier one runs the plain loop
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
