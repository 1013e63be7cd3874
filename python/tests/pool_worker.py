"""The worker of the tests of pools."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import slipring

worker = slipring.Worker()
told: dict[str, str] = {}


@worker.setup
def load(role: slipring.Role) -> None:
    told.update(role.extra)
    told["role"] = role.role
    if role.mode == "broken":
        raise FileNotFoundError("no model")


@worker.handler("echo")
def echo(request: slipring.Request) -> bytes:
    return request.bytes()


@worker.handler("pid")
def pid(request: slipring.Request) -> str:
    return str(os.getpid())


@worker.handler("told")
def tell(request: slipring.Request) -> str:
    return told[request.text()]


@worker.handler("turn")
def turn(request: slipring.Request) -> str:
    """Return how many such requests there were so far."""
    told["turn"] = str(int(told.get("turn", "0")) + 1)
    return told["turn"]


@worker.handler("sleep")
def sleep(request: slipring.Request) -> str:
    end = time.monotonic() + float(request.text())
    while time.monotonic() < end:
        request.check_cancelled()
        time.sleep(0.001)
    return str(os.getpid())


@worker.handler("fail")
def fail(request: slipring.Request) -> None:
    raise ValueError(request.text())


@worker.handler("crash")
def crash(request: slipring.Request) -> None:
    print("about to crash")
    os.kill(os.getpid(), int(request.text() or signal.SIGKILL))
    signal.pause()


@worker.handler("crash once")
def crash_once(request: slipring.Request) -> str:
    """Crash unless a file is there, which is made before."""
    mark = Path(request.text())
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
        signal.pause()
    return "survived"


@worker.handler("count")
def count(request: slipring.Request) -> Iterator[str]:
    for number in range(int(request.text())):
        yield str(number)


@worker.handler("stall")
def stall(request: slipring.Request) -> Iterator[str]:
    yield "one"
    while not request.cancelled:
        time.sleep(0.001)
    request.check_cancelled()


@worker.handler("hang")
def hang(request: slipring.Request) -> None:
    time.sleep(600)


if __name__ == "__main__":
    worker.run()
