"""Payloads of any kind and length, to a worker and back."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import slipring
from compat_workers import RoleConfig, worker_main
from hypothesis import given, settings
from hypothesis import strategies as st
from slipring import compat

TIMEOUT = 60.0
WORKER = Path(__file__).with_name("payload_worker.py")
RING = 65536
CONFIG: Any = {"request_ring": RING, "reply_ring": RING}
CONFIG |= {"max_request_frame": RING // 4, "max_reply_frame": RING // 4}

Array = npt.NDArray[Any]


class Caller:
    """A channel, and for tasks the runner that awaits it."""

    def __init__(self, channel: Any, runner: asyncio.Runner | None) -> None:
        self.channel = channel
        self.runner = runner

    def call(self, kind: str, payload: Any) -> slipring.Reply:
        if self.runner is None:
            reply = self.channel.call(kind, payload, timeout=TIMEOUT)
        else:
            reply = self.runner.run(self.channel.call(kind, payload, timeout=TIMEOUT))
        assert isinstance(reply, slipring.Reply)
        return reply

    def stream(self, kind: str, payload: Any) -> list[Any]:
        def start() -> Any:
            return self.channel.stream(kind, payload, chunk_timeout=TIMEOUT)

        if self.runner is None:
            return list(start())

        async def read() -> list[Any]:
            return [chunk async for chunk in start()]

        return self.runner.run(read())


@pytest.fixture(scope="module", params=("threads", "tasks"))
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    """Start a worker whose rings many of the payloads do not fit."""
    spawner = slipring.Spawner(sys.executable, [WORKER], config=CONFIG, handshake_timeout=60.0)
    if request.param == "threads":
        with spawner.spawn() as channel:
            yield Caller(channel, None)
        return
    with asyncio.Runner() as runner:
        tasks = runner.run(spawner.spawn_async())
        yield Caller(tasks, runner)
        runner.run(tasks.close())


def random_bytes(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


SEEDS = st.integers(0, 2**32)
LENGTHS = st.integers(0, 3 * RING) | st.sampled_from((RING // 4, RING // 2, RING)).flatmap(
    lambda length: st.integers(length - 80, length + 80)
)
BYTES = st.binary() | st.builds(random_bytes, SEEDS, LENGTHS)
LONG_TEXTS = st.builds(lambda text, times: text * times, st.text(), st.integers(0, 5000))


@settings(deadline=None, max_examples=150)
@given(BYTES, st.sampled_from((bytes, bytearray, memoryview)), st.sampled_from(("bytes", "bytearray")))
def test_bytes_come_back(caller: Caller, data: bytes, kind: Any, handler: str) -> None:
    assert bytes(caller.call(handler, kind(data))) == data


@settings(deadline=None, max_examples=150)
@given(st.text() | LONG_TEXTS)
def test_texts_of_any_letters_come_back(caller: Caller, text: str) -> None:
    assert caller.call("text", text).text() == text


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text() | LONG_TEXTS, max_size=20) | st.lists(st.text(), max_size=300))
def test_batches_of_texts_come_back(caller: Caller, texts: list[str]) -> None:
    assert caller.call("texts", texts).texts() == texts


@settings(deadline=None, max_examples=150)
@given(
    SEEDS,
    st.integers(0, 70),
    st.integers(0, 600),
    st.sampled_from(("float32", "float16", "int8", "uint8")),
    st.booleans(),
)
def test_matrices_of_all_types_and_shapes_come_back(
    caller: Caller, seed: int, rows: int, columns: int, name: str, is_frozen: bool
) -> None:
    kind = np.dtype(name)
    data = random_bytes(seed, rows * columns * kind.itemsize)
    array = np.frombuffer(data, kind).reshape(rows, columns)
    if not is_frozen:
        array = array.copy()
    reply = caller.call("array", array)
    for got in (reply.array(), reply.view()):
        # Numbers that are none differ from themselves.
        assert (got.shape, got.dtype, got.tobytes()) == (array.shape, kind, data)


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.lists(LENGTHS | st.just(0) | st.integers(0, 100), max_size=12))
def test_chunks_of_any_lengths_come_in_order(caller: Caller, seed: int, lengths: list[int]) -> None:
    chunks = [random_bytes(seed + index, length) for index, length in enumerate(lengths)]
    payload = " ".join(map(str, lengths)).encode() + b"\n" + b"".join(chunks)
    assert [bytes(chunk) for chunk in caller.stream("chunks", payload)] == chunks


def make_array(seed: int, length: int, name: str) -> Array:
    # Not of random bytes, some of which are numbers that differ from themselves.
    return np.random.default_rng(seed).integers(0, 100, length).astype(name)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | BYTES
    | BYTES.map(bytearray)
    | st.frozensets(st.integers())
    | st.builds(make_array, SEEDS, st.integers(0, 5000), st.sampled_from(("float64", "int8", "int32")))
)
OBJECTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)


def is_same(one: Any, other: Any) -> bool:
    """Return whether two objects are equal, also the arrays in them, and of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(is_same, one.values(), other.values()))
    return bool(one == other)


@pytest.fixture(scope="module")
def compat_caller() -> Iterator[Caller]:
    """Start a worker of the channel in the place of one over pipes."""
    spawner = compat.Spawner(config=CONFIG, handshake_timeout=60.0)
    channel, _ = spawner.spawn(worker_main, RoleConfig())
    with asyncio.Runner() as runner:
        yield Caller(channel, runner)
        runner.run(channel.close(timeout=TIMEOUT))


@settings(deadline=None, max_examples=150)
@given(OBJECTS)
def test_objects_come_back_over_the_drop_in_channel(compat_caller: Caller, thing: Any) -> None:
    assert compat_caller.runner is not None
    call = compat_caller.channel.call("echo", thing, timeout=TIMEOUT)
    assert is_same(compat_caller.runner.run(call), thing)


@settings(deadline=None, max_examples=75)
@given(st.lists(OBJECTS, max_size=5))
def test_chunks_of_objects_come_over_the_drop_in_channel(
    compat_caller: Caller, things: list[Any]
) -> None:
    async def read() -> list[Any]:
        messages = [("stream_chunk", thing) for thing in things] + [("stream_end", None)]
        stream = compat_caller.channel.stream("send", messages, stream_chunk_timeout=TIMEOUT)
        return [chunk async for chunk in stream]

    assert compat_caller.runner is not None
    assert is_same(compat_caller.runner.run(read()), things)
