"""The logs that are tortured, written once for all tests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from torture_log import Case, Written, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, Written, Written]:
    root = tmp_path_factory.mktemp("tortured")
    return asyncio.run(write(root, batches=54, seed=7))


@pytest.fixture
def written(images: tuple[Written, Written, Written]) -> Written:
    """A log that is open and idle: every batch in it is acknowledged."""
    return images[0]


@pytest.fixture
def unsynced(images: tuple[Written, Written, Written]) -> Written:
    """The same log and one batch more, written but neither synced nor acknowledged."""
    return images[1]


@pytest.fixture
def closed(images: tuple[Written, Written, Written]) -> Written:
    """The log after a clean close."""
    return images[2]


@pytest.fixture
def case(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Case:
    return Case(written, tmp_path, caplog)
