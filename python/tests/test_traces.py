"""The trace that a request is part of, as its worker is told of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import slipring

WORKER = Path(__file__).with_name("traces_worker.py")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TIMEOUT = 30.0
FRAME = 16 << 10


def spawner(log_dir: Path, *arguments: str) -> slipring.Spawner:
    return slipring.Spawner(
        sys.executable,
        [WORKER, *arguments],
        log_dir=log_dir,
        role="traces",
        config={"max_request_frame": FRAME},
    )


@pytest.mark.parametrize("arguments", [(), ("tasks",)])
def test_a_worker_is_told_of_the_trace_of_each_request(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with spawner(tmp_path, *arguments).spawn() as channel:
        for size in (0, 10, FRAME - 33, FRAME - 32, FRAME - 31, FRAME, FRAME + 1, 3 * FRAME):
            payload = b"x" * size
            expected = f"{TRACE} {size}"
            reply = channel.call("told", payload, timeout=TIMEOUT, traceparent=TRACE)
            assert reply.text() == expected
            pending = channel.submit("told", payload, timeout=TIMEOUT, traceparent=TRACE)
            assert pending.wait().text() == expected
            stream = channel.stream("chunks", payload, timeout=TIMEOUT, traceparent=TRACE)
            assert [chunk.text() for chunk in stream] == [expected]
            assert channel.call("told", payload, timeout=TIMEOUT).text() == f"None {size}"


def test_what_is_no_trace_is_ignored(tmp_path: Path) -> None:
    with spawner(tmp_path).spawn() as channel:
        for malformed in (None, "", "nonsense", TRACE[:-1], "ff" + TRACE[2:], TRACE.upper()):
            reply = channel.call("told", timeout=TIMEOUT, traceparent=malformed)
            assert reply.text() == "None 0", malformed
        with pytest.raises(TypeError):
            channel.call("told", timeout=TIMEOUT, traceparent=7)  # type: ignore[arg-type]


def test_tasks_of_a_host_tell_of_a_trace(tmp_path: Path) -> None:
    async def run() -> None:
        async with await spawner(tmp_path).spawn_async() as channel:
            for size in (0, FRAME, 3 * FRAME):
                payload, expected = b"x" * size, f"{TRACE} {size}"
                reply = await channel.call("told", payload, timeout=TIMEOUT, traceparent=TRACE)
                assert reply.text() == expected
                reply = await channel.submit("told", payload, traceparent=TRACE)
                assert reply.text() == expected
                stream = channel.stream("chunks", payload, timeout=TIMEOUT, traceparent=TRACE)
                assert [chunk.text() async for chunk in stream] == [expected]
            assert (await channel.call("told", timeout=TIMEOUT)).text() == "None 0"

    asyncio.run(run())


def test_requests_of_a_pool_tell_of_a_trace(tmp_path: Path) -> None:
    async def run(pool: slipring.Pool) -> None:
        role = pool.async_role("traces")
        reply = await role.call("told", b"x", timeout=TIMEOUT, traceparent=TRACE)
        assert reply.text() == f"{TRACE} 1"
        stream = role.stream("chunks", b"x", timeout=TIMEOUT, traceparent=TRACE)
        assert [chunk.text() async for chunk in stream] == [f"{TRACE} 1"]

    with slipring.Pool({"traces": slipring.PoolRole(spawner(tmp_path))}) as pool:
        role = pool.role("traces")
        reply = role.call("told", b"x", timeout=TIMEOUT, traceparent=TRACE)
        assert reply.text() == f"{TRACE} 1"
        pending = role.submit("told", b"x", timeout=TIMEOUT, traceparent=TRACE)
        assert pending.wait().text() == f"{TRACE} 1"
        stream = role.stream("chunks", b"x", timeout=TIMEOUT, traceparent=TRACE)
        assert [chunk.text() for chunk in stream] == [f"{TRACE} 1"]
        assert role.call("told", b"x", timeout=TIMEOUT).text() == "None 1"
        asyncio.run(run(pool))
