"""Pools, used by tasks of asyncio."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import slipring

WORKER = Path(__file__).with_name("pool_worker.py")
TIMEOUT = 60.0


Test = Callable[[slipring.Pool], Coroutine[Any, Any, None]]


def run(tmp_path: Path, test: Test, **options: Any) -> None:
    """Run a test with a pool of one role, `test`."""

    async def main() -> None:
        options.setdefault("max_size", 2)
        spawner = slipring.Spawner(sys.executable, [WORKER], log_dir=tmp_path, handshake_timeout=60.0)
        role = slipring.PoolRole(spawner, stop_timeout=1.0, **options)
        async with slipring.Pool({"test": role}) as pool:
            await asyncio.wait_for(test(pool), 2 * TIMEOUT)

    asyncio.run(main())


async def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.005)


def test_calls_of_many_tasks_are_answered(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        calls = [role.call("echo", str(number), timeout=TIMEOUT) for number in range(200)]
        replies = await asyncio.gather(*calls)
        assert [reply.text() for reply in replies] == [str(number) for number in range(200)]
        with pytest.raises(slipring.HandlerFailed):
            await role.call("fail", "odd", timeout=TIMEOUT)
        assert role.handle.name == "test"

    run(tmp_path, test)


def test_the_loop_goes_on_while_a_call_waits(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        call = asyncio.create_task(role.call("sleep", "0.5", timeout=TIMEOUT))
        turns = 0
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 20
        # Nothing of what was waited for is left with the loop.
        before = threading.active_count()
        await role.call("echo", timeout=TIMEOUT)
        assert threading.active_count() == before

    run(tmp_path, test)


def test_a_task_that_is_cancelled_cancels_its_request(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        await role.call("echo", timeout=TIMEOUT)
        kept: list[BaseException] = []

        async def ask() -> None:
            try:
                await role.call("sleep", "600")
            except asyncio.CancelledError as error:
                # It has the frames of the call, with all that they have.
                kept.append(error)
                raise

        calls = [asyncio.create_task(ask()) for _ in range(5)]
        await until(lambda: role.handle.health().load.in_flight > 0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert len(kept) == 5
        await until(lambda: role.handle.health().load.in_flight == 0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(role.call("sleep", "600"), 0.1)
        await until(lambda: role.handle.health().load.in_flight == 0)
        assert (await role.call("echo", "well", timeout=TIMEOUT)).text() == "well"

    run(tmp_path, test)


def test_timeouts_and_overloads_are_told(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        await role.call("echo", timeout=TIMEOUT)
        held = asyncio.create_task(role.call("sleep", "600"))
        await until(lambda: role.handle.health().load.in_flight == 1)
        with pytest.raises(slipring.QueueTimeout):
            await role.call("echo", timeout=0.05)
        waiting = asyncio.create_task(role.call("echo", timeout=TIMEOUT))
        await until(lambda: role.handle.health().load.queued == 1)
        with pytest.raises(slipring.Overloaded) as raised:
            await role.call("echo")
        assert (raised.value.queued, raised.value.limit) == (1, 1)
        held.cancel()
        await waiting

    run(tmp_path, test, max_size=1, prefetch=0, max_waiting=1)


def test_a_death_is_told_and_the_pool_goes_on(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        with pytest.raises(slipring.PeerDied) as raised:
            await role.call("crash", "11", timeout=TIMEOUT)
        assert raised.value.signal == 11
        assert (await role.call("echo", "well", timeout=TIMEOUT)).text() == "well"

    run(tmp_path, test)


def test_streams_are_iterated_over_and_left(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        chunks = [chunk.text() async for chunk in role.stream("count", "5", timeout=TIMEOUT)]
        assert chunks == ["0", "1", "2", "3", "4"]
        async with role.stream("stall") as stream:
            assert (await anext(stream)).text() == "one"
            assert stream.request is not None
        async for _ in role.stream("stall"):
            break
        gc.collect()
        await until(lambda: role.handle.health().load.in_flight == 0)
        stream = role.stream("stall")
        assert (await anext(stream)).text() == "one"
        step = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.05)
        with pytest.raises(slipring.InvalidInput, match="another task"):
            await anext(stream)
        stream.cancel()
        with pytest.raises(slipring.Cancelled):
            await step
        with pytest.raises(slipring.Stalled):
            async for _ in role.stream("stall", chunk_timeout=0.05):
                pass

    run(tmp_path, test)


def test_a_step_that_is_cancelled_loses_no_chunk(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        role = pool.async_role("test")
        stream = role.stream("count", "300", timeout=TIMEOUT)
        seen: list[str] = []
        while True:
            step = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            step.cancel()
            try:
                seen.append((await step).text())
            except asyncio.CancelledError:
                continue
            except StopAsyncIteration:
                break
        assert seen == [str(number) for number in range(300)]

    run(tmp_path, test)


def test_time_in_which_no_task_waits_is_not_the_workers(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        stream = pool.async_role("test").stream(
            "stall", chunk_timeout=0.5, first_chunk_timeout=TIMEOUT, timeout=TIMEOUT
        )
        assert (await anext(stream)).text() == "one"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        with pytest.raises(slipring.Stalled):
            await anext(stream)
        assert time.monotonic() - begun > 0.3

    run(tmp_path, test)


def test_events_and_pings_are_awaited(tmp_path: Path) -> None:
    async def test(pool: slipring.Pool) -> None:
        kinds: list[str] = []

        async def read() -> None:
            async for event in pool.async_events():
                kinds.append(event.kind)

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        role = pool.async_role("test")
        await role.call("echo", timeout=TIMEOUT)
        [report] = await role.ping(timeout=TIMEOUT)
        assert isinstance(report, slipring.Health)
        await pool.aclose(timeout=TIMEOUT)
        await asyncio.wait_for(reader, TIMEOUT)
        assert kinds == ["started", "ready", "stopped"]
        with pytest.raises(slipring.Closed):
            await role.call("echo")

    run(tmp_path, test, lazy=True)


def test_a_pool_is_used_by_one_loop_after_another_and_by_threads(tmp_path: Path) -> None:
    spawner = slipring.Spawner(sys.executable, [WORKER], log_dir=tmp_path, handshake_timeout=60.0)
    with slipring.Pool({"test": slipring.PoolRole(spawner)}) as pool:

        async def ask() -> str:
            return (await pool.async_role("test").call("echo", "one", timeout=TIMEOUT)).text()

        answers = [asyncio.run(ask()) for _ in range(3)]
        threads = [threading.Thread(target=lambda: answers.append(asyncio.run(ask()))) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == ["one"] * 5
        assert pool.role("test").call("echo", "two", timeout=TIMEOUT).text() == "two"


def test_a_loop_that_is_closed_lets_go_of_its_requests(tmp_path: Path) -> None:
    spawner = slipring.Spawner(sys.executable, [WORKER], log_dir=tmp_path, handshake_timeout=60.0)
    with slipring.Pool({"test": slipring.PoolRole(spawner, max_size=1)}) as pool:
        role = pool.async_role("test")
        role.handle.call("echo", timeout=TIMEOUT)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        task = loop.create_task(role.call("sleep", "600"))
        loop.run_until_complete(until(lambda: role.handle.health().load.in_flight == 1))
        loop.close()
        del loop, task
        gc.collect()
        end = time.monotonic() + TIMEOUT
        while role.handle.health().load.in_flight and time.monotonic() < end:
            time.sleep(0.005)
        assert role.handle.call("echo", "next", timeout=TIMEOUT).text() == "next"
