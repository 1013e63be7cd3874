"""Workers for the tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slipring

WORKER = Path(__file__).with_name("worker.py")

# A shell starts programs in the background with this signal ignored, and Ctrl-C would do nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

Spawn = Callable[..., slipring.Channel]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start workers, which are ended after the test."""
    channels: list[slipring.Channel] = []

    def start(**options: Any) -> slipring.Channel:
        options = {"role": "test", "log_dir": tmp_path, "handshake_timeout": 60.0, **options}
        channel = slipring.Spawner(sys.executable, [WORKER], **options).spawn()
        channels.append(channel)
        return channel

    yield start
    for channel in channels:
        channel.close()


@pytest.fixture
def channel(spawn: Spawn) -> slipring.Channel:
    """Return the channel of a worker."""
    return spawn()
