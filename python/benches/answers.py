"""What the processes that `compare.py` asks do: the payloads of its rows, and who answers with them."""

from __future__ import annotations

import functools
import os
import pickle
from multiprocessing import shared_memory
from typing import Any

import numpy as np

import slipring

MIB = 1 << 20
PIN_VARIABLE = "BENCH_PIN"
ARRAY, LISTS = "64 x 384 f32, array", "64 x 384 f32, lists"


@functools.cache
def payload(row: str) -> Any:
    """Return the answer of a row."""
    vectors = np.random.default_rng(1).random((64, 384), np.float32)
    lengths = {"64 B": 64, "1 MiB": MIB, "64 MiB": 64 * MIB}
    if row == ARRAY:
        return vectors
    if row == LISTS:
        return vectors.tolist()
    return bytes(range(256)) * (lengths[row] // 256) or bytes(range(64))


def pin(processor: int) -> None:
    """Bind this process to a processor, if that was asked for."""
    if os.environ.get(PIN_VARIABLE):
        os.sched_setaffinity(0, {processor})


def answer(row: str) -> Any:
    """Answer as a task of an executor. Unlike a cached function it can be pickled everywhere."""
    return payload(row)


def answer_pipe(connection: Any) -> None:
    """Answer over a pipe, in a process of its own."""
    pin(1)
    while row := connection.recv():
        if "f32" in row:
            connection.send(payload(row))
        else:
            connection.send_bytes(payload(row))


def answer_channel() -> None:
    """Answer over a channel, in a process of its own."""
    pin(1)
    worker = slipring.Worker()

    @worker.handler("row")
    def row(request: slipring.Request) -> Any:
        # Who has lists sends an array: that is what a channel is for.
        row = request.text()
        return payload(ARRAY if row == LISTS else row)

    worker.run()


def answer_memory(name: str, asked: Any, answered: Any) -> None:
    """Answer through shared memory and semaphores, in a process of its own."""
    pin(1)
    memory = shared_memory.SharedMemory(name)
    view = memory.buf
    while asked.acquire() and (row := bytes(view[1 : 1 + view[0]]).decode()):
        put(view, payload(row))
        answered.release()
    del view
    memory.close()


def put(view: memoryview, answer: Any) -> None:
    """Write an answer: its length as eight bytes, and its bytes."""
    data: Any = pickle.dumps(answer, 5) if isinstance(answer, list) else answer
    data = memoryview(data).cast("B")
    view[:8] = len(data).to_bytes(8, "little")
    view[8 : 8 + len(data)] = data


def answer_zmq(address: str) -> None:
    """Answer over a socket of ZeroMQ, in a process of its own."""
    import zmq

    pin(1)
    socket = zmq.Context().socket(zmq.REP)
    socket.bind(address)
    while row := socket.recv_string():
        answer = payload(row)
        socket.send(pickle.dumps(answer, 5) if row == LISTS else answer)
    socket.send(b"")


if __name__ == "__main__":
    answer_channel()
