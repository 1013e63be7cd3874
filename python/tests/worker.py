"""The worker of the tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import slipring

worker = slipring.Worker()
kept: list[slipring.Request] = []
extra: dict[str, str] = {}
passed: list[str] = []


def read_passed(role: slipring.Role) -> str:
    try:
        descriptor = role.take_fd("text")
    except slipring.Error as error:
        return str(error)
    with open(descriptor, "rb") as file:
        found = file.read(14)
    try:
        role.take_fd("text")
    except slipring.Error:
        return f"{found!r} and no more"
    return "twice"


@worker.setup
def load(role: slipring.Role) -> None:
    extra.update(role.extra)
    extra.update(role=repr(role.role), model=str(role.model), mode=str(role.mode))
    extra.update(blob=repr(role.blob), env=os.environ.get("SLIPRING_TEST", ""), cwd=os.getcwd())
    passed.append(read_passed(role))
    if role.mode == "broken":
        raise FileNotFoundError("no model")


@worker.handler("echo")
def echo(request: slipring.Request) -> bytes:
    return request.bytes()


@worker.handler("passed")
def tell_passed(request: slipring.Request) -> str:
    return passed[0]


@worker.handler("extra")
def told(request: slipring.Request) -> str:
    return extra[request.text()]


@worker.handler("embed")
def embed(request: slipring.Request) -> npt.NDArray[np.float32]:
    """Return the first 384 codes of each text."""
    vectors = np.zeros((len(request.texts()), 384), dtype=np.float32)
    for row, text in zip(vectors, request.texts(), strict=True):
        codes = [ord(letter) for letter in text][:384]
        row[: len(codes)] = codes
    return vectors


@worker.handler("double")
def double(request: slipring.Request) -> npt.NDArray[np.float32]:
    array = request.array()
    doubled: npt.NDArray[np.float32] = array + array
    return doubled


@worker.handler("upper")
def upper(request: slipring.Request) -> list[str]:
    return [text.upper() for text in request.texts()]


@worker.handler("count")
def count(request: slipring.Request) -> Iterator[str]:
    for number in range(int(request.text())):
        yield str(number)


@worker.handler("matrices")
def matrices(request: slipring.Request) -> Iterator[npt.NDArray[np.float32]]:
    for number in range(int(request.text())):
        yield np.full((100, 100), number, dtype=np.float32)


@worker.handler("stall")
def stall(request: slipring.Request) -> Iterator[str]:
    yield "one"
    while not request.cancelled:
        time.sleep(0.001)
    request.check_cancelled()


@worker.handler("wait")
def wait(request: slipring.Request) -> None:
    print("waits")
    while True:
        request.check_cancelled()
        time.sleep(0.001)


@worker.handler("compute")
def compute(request: slipring.Request) -> str:
    """Hold the interpreter lock for so many seconds."""
    # Without this another thread of the worker would get the lock now and then.
    sys.setswitchinterval(1000)
    end = time.monotonic() + float(request.text())
    while time.monotonic() < end:
        pass
    sys.setswitchinterval(0.005)
    return "done"


@worker.handler("fail")
def fail(request: slipring.Request) -> None:
    try:
        int(request.text())
    except ValueError as why:
        raise LookupError("no such number") from why


@worker.handler("keep")
def keep(request: slipring.Request) -> str:
    kept.append(request)
    return str(sum(len(request.bytes()) for request in kept))


@worker.handler("crash")
def crash(request: slipring.Request) -> None:
    print("about to crash")
    os.kill(os.getpid(), int(request.text()))
    signal.pause()


@worker.handler("exit")
def leave(request: slipring.Request) -> None:
    sys.exit(int(request.text()))


@worker.handler("odd")
def odd(request: slipring.Request) -> slipring.Request:
    return request


@worker.handler(7)
def seven(request: slipring.Request) -> str:
    return f"kind {request.kind}"


if __name__ == "__main__":
    worker.run()
