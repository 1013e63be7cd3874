"""A worker that reads payloads in each way and sends them back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import slipring

worker = slipring.Worker()


@worker.handler("bytes")
def echo_bytes(request: slipring.Request) -> bytes:
    return request.bytes()


@worker.handler("bytearray")
def echo_bytearray(request: slipring.Request) -> bytearray:
    return request.bytearray()


@worker.handler("text")
def echo_text(request: slipring.Request) -> str:
    return request.text()


@worker.handler("texts")
def echo_texts(request: slipring.Request) -> list[str]:
    return request.texts()


@worker.handler("array")
def echo_array(request: slipring.Request) -> npt.NDArray[Any]:
    return request.array()


@worker.handler("chunks")
def echo_chunks(request: slipring.Request) -> Iterator[bytes]:
    """Send the payload in parts, whose lengths the first line names."""
    lengths, _, rest = request.bytes().partition(b"\n")
    for length in map(int, lengths.split()):
        yield rest[:length]
        rest = rest[length:]


if __name__ == "__main__":
    worker.run()
