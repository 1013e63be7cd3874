"""The channel for tasks of asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import slipring
from conftest import told_after_fork
from slipring import _slipring

TIMEOUT = 30.0
WORKER = Path(__file__).with_name("worker.py")


@asynccontextmanager
async def spawned(**options: Any) -> AsyncIterator[slipring.AsyncChannel]:
    """Start a worker, which is ended at the end of the block."""
    options = {"role": "test", "handshake_timeout": 60.0, **options}
    async with await slipring.Spawner(sys.executable, [WORKER], **options).spawn_async() as channel:
        yield channel


def run(test: Callable[[slipring.AsyncChannel], Awaitable[None]], **options: Any) -> None:
    """Run a test with the channel of a worker."""

    async def main() -> None:
        async with spawned(**options) as channel:
            await asyncio.wait_for(test(channel), 2 * TIMEOUT)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def is_well(channel: slipring.AsyncChannel) -> bool:
    """Return whether calls are answered, and nothing is left of those that were given up."""
    reply = await channel.call(7, timeout=TIMEOUT)
    return reply.text() == "kind 7" and channel.in_flight == 0


def test_calls_are_awaited() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        await channel.wait_ready(timeout=TIMEOUT)
        for payload in (b"", b"hello", b"x" * 3_000_000, bytearray(200_000)):
            assert bytes(await channel.call("echo", payload, timeout=TIMEOUT)) == bytes(payload)
        vectors = (await channel.call("embed", ["abc", ""], timeout=TIMEOUT)).array()
        assert vectors.shape == (2, 384) and vectors[0, 1] == ord("b")
        futures = [channel.submit("echo", str(number)) for number in range(200)]
        assert all(isinstance(future, asyncio.Future) for future in futures)
        replies = await asyncio.gather(*reversed(futures))
        assert [reply.text() for reply in replies] == [str(number) for number in range(199, -1, -1)]
        assert (await channel.ping(timeout=TIMEOUT)).requests_served >= 205
        assert channel.health().requests_served >= 205
        assert channel.role == "test" and channel.is_alive and channel.pid > 0
        assert channel.exit_cause is None and channel.log_path is None
        assert "open" in repr(channel) and channel.in_flight == 0

    run(test)


def test_errors_are_raised_at_the_await() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        with pytest.raises(slipring.HandlerFailed) as raised:
            await channel.call("fail", "seven", timeout=TIMEOUT)
        assert raised.value.type_name == "LookupError"
        with pytest.raises(TimeoutError):
            await channel.call("wait", timeout=0.05)
        with pytest.raises(slipring.TooLarge):
            await channel.call("echo", bytes(65 << 20), timeout=TIMEOUT)
        with pytest.raises(TypeError):
            await channel.call("echo", 7, timeout=TIMEOUT)  # type: ignore[arg-type]
        future = channel.submit("fail", "seven", timeout=TIMEOUT)
        with pytest.raises(slipring.HandlerFailed):
            await future
        assert isinstance(future.exception(), slipring.HandlerFailed)
        assert await is_well(channel)

    run(test)


def test_a_task_that_is_cancelled_cancels_its_request() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        task = asyncio.create_task(channel.call("wait"))
        future = channel.submit("wait")
        await until(lambda: channel.in_flight == 2 and channel.health().state == "busy")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        # Both handlers look whether their requests are cancelled: no other one would run otherwise.
        assert await is_well(channel)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.call("wait"), 0.05)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await channel.call("wait")
        assert await is_well(channel)

    run(test)


def test_a_request_is_cancelled_by_its_number() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        stream = channel.stream("stall")
        assert (await anext(stream)).text() == "one"
        assert stream.request is not None
        channel.cancel(stream.request + 1000)
        channel.cancel(stream.request)
        with pytest.raises(slipring.Cancelled):
            await anext(stream)
        pending = channel.blocking.submit("wait")
        waits = asyncio.create_task(asyncio.to_thread(pending.wait))
        await asyncio.sleep(0.05)
        channel.cancel(pending.request)
        with pytest.raises(slipring.Cancelled):
            await waits
        assert await is_well(channel)

    run(test)


def test_chunks_are_iterated() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        got = [int(chunk.text()) async for chunk in channel.stream("count", "2000")]
        assert got == list(range(2000))
        stream = channel.stream("count", "3")
        assert [chunk.text() async for chunk in stream] == ["0", "1", "2"]
        assert [chunk async for chunk in stream] == []
        async for chunk in channel.stream("matrices", "20"):
            assert chunk.array().shape == (100, 100)
        with pytest.raises(slipring.Stalled):
            async for chunk in channel.stream("stall", chunk_timeout=0.05):
                assert chunk.text() == "one"
        with pytest.raises(TimeoutError):
            async for chunk in channel.stream("stall", timeout=0.1):
                assert chunk.text() == "one"
        assert await is_well(channel)

    run(test)


def test_a_stream_that_is_left_is_cancelled() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        async with channel.stream("stall") as stream:
            assert (await anext(stream)).text() == "one"
        assert await is_well(channel)
        async for chunk in channel.stream("stall"):
            assert chunk.text() == "one"
            break
        gc.collect()
        assert await is_well(channel)
        stream = channel.stream("stall")
        await anext(stream)
        waits = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(slipring.InvalidInput, match="another task"):
            await anext(stream)
        stream.cancel()
        with pytest.raises(slipring.Cancelled):
            await waits
        assert await is_well(channel)

    run(test)


def test_a_cancelled_wait_loses_no_chunk() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        stream = channel.stream("count", "3000")
        got: list[int] = []
        cancelled = 0
        while len(got) < 3000:
            task = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            if len(got) % 3 == 0:
                cancelled += task.cancel()
            try:
                got.append(int((await task).text()))
            except asyncio.CancelledError:
                got.append(int((await anext(stream)).text()))
        assert got == list(range(3000)) and cancelled > 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(test)


def test_a_full_ring_keeps_only_its_own_tasks_waiting() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        busy = channel.submit("wait")
        payload = bytes(1_000_000)
        sent = [channel.submit("echo", payload, timeout=TIMEOUT) for _ in range(12)]
        begun = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - begun < 10, "the loop goes on"
        late, unwanted = channel.stream("stall", payload), channel.stream("stall", payload)
        assert late.request is None, "it waits for room"
        sent.pop().cancel()
        await unwanted.aclose()
        busy.cancel()
        assert [len(await future) for future in sent] == [1_000_000] * 11
        assert (await anext(late)).text() == "one" and late.request is not None
        late.cancel()
        with pytest.raises(slipring.Cancelled):
            await anext(late)
        assert await is_well(channel)

    run(test)


def test_event_loops_and_threads_share_a_channel() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        wrong: list[str] = []

        async def call(name: str) -> None:
            for number in range(150):
                text = f"{name} {number}" * (1 + 500 * (number % 7 == 0))
                if (await channel.call("echo", text, timeout=TIMEOUT)).text() != text:
                    wrong.append(text)
            got = [chunk.text() async for chunk in channel.stream("count", "20")]
            if got != [str(number) for number in range(20)]:
                wrong.append(name)

        async def several(name: str) -> None:
            await asyncio.gather(*(call(f"{name} {task}") for task in range(4)))

        def block(name: str) -> None:
            for number in range(150):
                text = f"{name} {number}"
                if channel.blocking.call("echo", text, timeout=TIMEOUT).text() != text:
                    wrong.append(text)

        threads = [
            *(threading.Thread(target=asyncio.run, args=(several(f"loop {n}"),)) for n in range(3)),
            *(threading.Thread(target=block, args=(f"thread {n}",)) for n in range(2)),
        ]
        for thread in threads:
            thread.start()
        await several("main")
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        assert not wrong and channel.in_flight == 0

    run(test)


def test_the_death_of_the_worker_ends_all_waits() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        async def read() -> None:
            async for _ in channel.stream("stall"):
                pass

        def elsewhere() -> None:
            with pytest.raises(slipring.PeerDied):
                asyncio.run(wait())

        async def wait() -> None:
            await channel.call("wait")

        tasks = [asyncio.create_task(wait()) for _ in range(20)]
        tasks += [asyncio.create_task(read()) for _ in range(5)]
        futures = [channel.submit("wait") for _ in range(20)]
        thread = threading.Thread(target=elsewhere)
        thread.start()
        await until(lambda: channel.in_flight == 46)
        os.kill(channel.pid, signal.SIGKILL)
        ends = await asyncio.gather(*tasks, *futures, return_exceptions=True)
        assert [type(end) for end in ends] == [slipring.PeerDied] * 45
        assert isinstance(ends[0], slipring.PeerDied) and ends[0].signal == signal.SIGKILL
        await asyncio.to_thread(thread.join)
        assert not channel.is_alive and channel.in_flight == 0
        with pytest.raises(slipring.PeerDied):
            await channel.call(7, timeout=TIMEOUT)
        assert (await channel.wait_exit()).signal == signal.SIGKILL
        # Nothing is left that the loop polls and finds readable for ever.
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select, turns = selector.select, 0

        def count(timeout: float | None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        selector.select = count
        await asyncio.sleep(0.2)
        del selector.select
        assert turns < 20, "it turns without end"
        assert (await channel.close()).signal == signal.SIGKILL

    run(test)


def test_a_loop_may_be_closed_with_requests_in_flight() -> None:
    async def begin() -> tuple[slipring.AsyncChannel, list[object]]:
        channel = await slipring.Spawner(
            sys.executable, [WORKER], role="test", handshake_timeout=60.0
        ).spawn_async()
        await channel.wait_ready(timeout=TIMEOUT)
        return channel, [channel.submit("wait"), channel.stream("stall"), channel.submit("wait")]

    loop = asyncio.new_event_loop()
    channel, left = loop.run_until_complete(begin())
    call = channel.call("wait")
    loop.create_task(call)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    # What comes now wakes a loop that is closed.
    assert channel.in_flight == 4
    channel.abort()
    end = time.monotonic() + TIMEOUT
    while channel.health().state == "busy" and time.monotonic() < end:
        time.sleep(0.001)
    channel.clear_abort()
    left.clear()
    call.close()
    del loop, call
    gc.collect()

    async def go_on() -> None:
        assert await is_well(channel)
        await channel.close()

    asyncio.run(go_on())


def test_a_forked_child_is_refused() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        assert "os.fork" in told_after_fork(lambda: asyncio.run(channel.call("echo", b"")))
        assert await is_well(channel)

    run(test)


def test_ctrl_c_ends_the_main_task() -> None:
    channels: list[slipring.AsyncChannel] = []

    async def main() -> None:
        channel = await slipring.Spawner(
            sys.executable, [WORKER], role="test", handshake_timeout=60.0
        ).spawn_async()
        channels.append(channel)
        await channel.wait_ready(timeout=TIMEOUT)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        await channel.call("wait")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def go_on() -> None:
        assert await is_well(channels[0])
        await channels[0].close()

    asyncio.run(go_on())


def test_a_callback_that_a_signal_interrupts_is_called_again() -> None:
    called: list[int] = []
    interrupts = [KeyboardInterrupt]

    def interrupted() -> None:
        if interrupts:
            raise interrupts.pop()
        called.append(2)

    callbacks: dict[int, Callable[[], object]] = {1: lambda: called.append(1), 2: interrupted}
    callbacks[4] = lambda: called.append(4)
    completions = _slipring.Completions(has_descriptor=True)
    for token in (1, 2, 3, 4):
        completions.add(token)
    with pytest.raises(KeyboardInterrupt):
        completions.run(callbacks)
    assert select.select([completions], [], [], 0.0)[0], "the event loop comes back"
    completions.run(callbacks)
    assert called == [1, 2, 4] and not select.select([completions], [], [], 0.0)[0]


def test_a_task_that_never_waits_lets_others_run() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        stream = channel.stream("count", "500")
        await until(lambda: channel.health().requests_served == 1)
        other = asyncio.create_task(turn())
        assert len([chunk async for chunk in stream]) == 500
        other.cancel()
        assert turns > 10, "all chunks were there"

        async def call() -> None:
            while True:
                await channel.call("echo", b"", timeout=TIMEOUT)

        task = asyncio.create_task(call())
        for _ in range(50):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await is_well(channel)

    run(test)


def test_pings_and_closes_are_awaited_while_a_handler_computes() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        await channel.wait_ready(timeout=TIMEOUT)
        pending = channel.submit("compute", "60", timeout=TIMEOUT)
        await until(lambda: channel.health().state == "busy")
        assert (await channel.ping(timeout=TIMEOUT)).state == "busy"
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        other = asyncio.create_task(turn())
        cause = await channel.close(timeout=0.2)
        other.cancel()
        assert turns > 5 and cause.code != 1
        with pytest.raises(slipring.Closed):
            await pending
        assert (await channel.close()).text == cause.text

    run(test)


def test_what_cannot_be_started_is_told() -> None:
    async def main() -> None:
        with pytest.raises(slipring.SpawnFailed):
            await slipring.Spawner("/no/such/program").spawn_async()
        async with spawned(mode="broken") as channel:
            with pytest.raises(slipring.SessionFailed):
                await channel.wait_ready(timeout=TIMEOUT)

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        slipring.Spawner(sys.executable).spawn_async().send(None)


def children() -> set[str]:
    """Return the processes that this one has started and not reaped."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(task.joinpath("children").read_text().split())
        except FileNotFoundError:
            # The thread has ended.
            pass
    return found


def test_a_worker_whose_start_is_given_up_is_ended() -> None:
    async def main() -> None:
        before = children()
        spawner = slipring.Spawner(sys.executable, [WORKER], handshake_timeout=60.0)
        task = asyncio.create_task(spawner.spawn_async())
        await until(lambda: children() > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not children() - before)

    asyncio.run(main())


def test_awaited_calls_leak_nothing() -> None:
    async def test(channel: slipring.AsyncChannel) -> None:
        async def some() -> None:
            for _ in range(300):
                (await channel.call("double", vectors, timeout=TIMEOUT)).view()
                with pytest.raises(slipring.HandlerFailed):
                    await channel.submit("fail", "x", timeout=TIMEOUT)
            async for _ in channel.stream("matrices", "100"):
                pass

        import numpy as np

        vectors = np.ones((64, 384), dtype=np.float32)
        await some()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(5):
            await some()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 16 << 10, "1,500 replies of 96 KiB are 144 MiB"

    run(test)
