"""Workers for the tests."""

from __future__ import annotations

import os
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


def descriptors() -> list[str]:
    """Return what this process has open, but for the status page, which comes and goes with channels."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue  # That of the list itself, or one that was closed meanwhile.
    return sorted(link for link in found if "slipring-status" not in link)


def told_after_fork(act: Callable[[], object]) -> str:
    """Return what a forked child is told that does this."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        told = "no error"
        try:
            act()
        except slipring.Forked as error:
            told = str(error)
        except BaseException as error:
            told = repr(error)
        os.write(writer, told.encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reader, 4096).decode()
    os.close(reader)
    os.close(writer)
    return told


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
