"""The channel in the place of one over pipes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipring
from compat_workers import Kind, NotToUnpickle, Role, RoleConfig, Shared, share, worker_main
from conftest import descriptors
from slipring import compat

TIMEOUT = 30.0


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    return tmp_path / "logs"


Test = Callable[[compat.Channel], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def run(log_dir: Path) -> Run:
    """Run a test with the channel of a worker."""

    def with_channel(test: Test, **config: Any) -> None:
        async def main() -> None:
            spawner = compat.Spawner(log_dir)
            channel, _ = await asyncio.to_thread(spawner.spawn, worker_main, RoleConfig(**config))
            async with channel:
                await asyncio.wait_for(test(channel), 2 * TIMEOUT)

        asyncio.run(main())

    return with_channel


def log_of(channel: compat.Channel) -> str:
    assert channel.log_path is not None
    return Path(channel.log_path).read_text()


async def logged(channel: compat.Channel, line: str) -> bool:
    """Wait until a worker has written a line."""
    end = time.monotonic() + TIMEOUT
    while line not in log_of(channel):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.001)
    return True


async def is_idle(channel: compat.Channel) -> bool:
    end = time.monotonic() + TIMEOUT
    while channel.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.001)
    return channel.in_flight == 0


def test_a_worker_runs_the_function(log_dir: Path) -> None:
    channel, handle = compat.Spawner(log_dir).spawn(worker_main, RoleConfig(factor=3))

    async def main() -> None:
        assert await channel.call(Kind.EMBED, [1, 2], timeout=TIMEOUT) == [3, 6]
        assert await channel.call("embed", [1, 2], TIMEOUT) == [3, 6]
        assert (handle.pid, handle.role) == (channel.pid, "embed") and channel.role == "embed"
        assert channel.is_alive and channel.in_flight == 0
        name, daemon, start, argv, pid = await channel.call("process", timeout=TIMEOUT)
        assert (name, daemon, start, pid) == ("slipring-embed", True, "spawn", handle.pid)
        assert argv == sys.argv
        await channel.close(timeout=TIMEOUT)
        assert not channel.is_alive
        assert await logged(channel, "[supervisor] exited with code 0")

    asyncio.run(main())
    log = log_of(channel)
    assert "worker_main returns" in log and "health: shutdown" in log and "health: end" in log
    assert "Traceback" not in log


def test_payloads_are_any_objects(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        for payload in (None, 7, "text", b"bytes", {"a": [1, (2,)]}, Role.EMBED, bytearray(5000)):
            got = await channel.call("echo", payload, timeout=TIMEOUT)
            assert got == payload and type(got) is type(payload)
        arrays = {"a": np.arange(3000.0), "b": np.ones((70, 70), dtype=np.int8), "c": np.arange(3)}
        got = await channel.call("echo", arrays, timeout=TIMEOUT)
        assert all(np.array_equal(got[name], arrays[name]) for name in arrays)
        assert all(array.flags.writeable for array in got.values())
        # A frame has a quarter of a ring at most.
        large = np.random.default_rng(1).random(700_001)
        got = await channel.call("writable", large, timeout=TIMEOUT)
        assert np.array_equal(got, large + 1)
        assert np.array_equal(await channel.call("echo", large[::3], timeout=TIMEOUT), large[::3])
        assert await channel.call("kind", timeout=TIMEOUT) == "str"

    run(test)


def test_large_arrays_lie_outside_of_the_pickle() -> None:
    from slipring import _pickled

    small, large = np.zeros(10), np.random.default_rng(1).random((64, 384))
    sent = _pickled.dump([small, large, large.astype(np.float32)])
    count, length = struct.unpack_from("<QQ", sent)
    assert count == 2 and length < 2000
    got = _pickled.load(sent)
    assert np.array_equal(got[1], large) and all(array.flags.aligned for array in got)


@pytest.mark.parametrize("size", (0, 10, 1024, 100_000, 3_000_000))
def test_buffers_are_of_the_types_that_a_pipe_would_bring(run: Run, size: int) -> None:
    async def test(channel: compat.Channel) -> None:
        data = os.urandom(size)
        for memory in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))):
            buffer = pickle.PickleBuffer(memory)
            expected = pickle.loads(pickle.dumps([buffer], 5))[0]
            # The worker sends what it has got, so that it is pickled in both directions.
            got, kind = await channel.call("kind of", [buffer], timeout=TIMEOUT)
            assert (type(got), kind) == (type(expected), type(expected).__name__)
            assert bytes(got) == data
            async for chunk in channel.stream("send", [("stream_chunk", buffer), ("stream_end", None)]):
                assert type(chunk) is type(expected) and bytes(chunk) == data

    run(test)


def test_the_workers_errors_are_told(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        async def error_of(kind: str, payload: Any = None) -> compat.WorkerError:
            with pytest.raises(compat.WorkerError) as raised:
                await channel.call(kind, payload, timeout=TIMEOUT)
            assert type(raised.value) is compat.WorkerError
            return raised.value

        error = await error_of("fail")
        assert (error.original_type, error.message) == ("LookupError", "no such number")
        assert 'raise LookupError("no such number")' in error.traceback_str
        assert "ValueError: seven" in error.traceback_str
        assert isinstance(error, RuntimeError) and "LookupError: no such number" in str(error)
        assert (await error_of("odd error")).original_type == "Odd"
        assert (await error_of("no such kind")).original_type == "UnknownKind"
        assert (await error_of("send error")).original_type == "NotToUnpickle"
        sent: list[Any] = [None, 7, {}, "text"]
        for odd in sent:
            assert (await error_of("send", [("error", odd)])).original_type == "Error"
        for kind in ("stream_chunk", "stream_end", "pingpong", 7, None):
            error = await error_of("send", [(kind, 1), ("result", 2)])
            assert error.original_type == "ProtocolError" and repr(kind) in error.message
        error = await error_of("send unpicklable", "result")
        assert error.original_type == "PickleError" and "lock" in error.message
        error = await error_of("send exception")
        assert error.original_type == "PickleError" and "NotToUnpickle" in error.traceback_str
        error = await error_of("large", 65 << 20)
        assert error.original_type == "PayloadTooLarge"
        error = await error_of("echo", threading.Lock())
        assert error.original_type == "PickleError"
        error = await error_of("echo", NotToUnpickle("a", "b"))
        assert error.original_type == "PickleError" and "second" in error.message
        assert (await error_of("echo", bytes(65 << 20))).original_type == "PayloadTooLarge"
        for kind in ("ping", "result", Kind.SHUTDOWN, 7):
            error = await error_of(kind)  # type: ignore[arg-type]
            assert error.original_type == "ProtocolError"
        assert await channel.call("echo", "still", timeout=TIMEOUT) == "still"

    run(test)


def test_chunks_are_iterated(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        assert [chunk async for chunk in channel.stream("count", 1000)] == list(range(1000))
        for kind, named in (("result", "'result'"), ("pong", None), ("nonsense", "'nonsense'")):
            with pytest.raises(compat.WorkerError) as raised:
                async for chunk in channel.stream("send", [("stream_chunk", 1), (kind, 2), (5, 6)]):
                    assert chunk == 1
            assert raised.value.original_type == "ProtocolError"
            assert (named or "5") in raised.value.message
        for kind, told in (("send unpicklable", "PickleError"), ("large chunk", "PayloadTooLarge")):
            payload = "stream_chunk" if told == "PickleError" else 65 << 20
            with pytest.raises(compat.WorkerError) as raised:
                async for _ in channel.stream(kind, payload):
                    pass
            assert raised.value.original_type == told
        with pytest.raises(compat.WorkerError) as raised:
            async for _ in channel.stream("fail"):
                pass
        assert raised.value.original_type == "LookupError"
        assert await channel.call("echo", "still", timeout=TIMEOUT) == "still"

    run(test)


def test_late_calls_and_stalled_streams_end(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        with pytest.raises(TimeoutError):
            await channel.call("wait", timeout=0.05)
        with pytest.raises(compat.WorkerCrashError) as raised:
            async for chunk in channel.stream("one chunk", stream_chunk_timeout=0.05):
                assert chunk == 1
        assert raised.value.role == "embed" and raised.value.log_path == channel.log_path
        # The worker has seen that nobody waits, and its late answers went nowhere.
        assert await channel.call("echo", "next", timeout=TIMEOUT) == "next"
        with pytest.raises(TimeoutError):
            await channel.call("wait", "late", timeout=0.05)
        assert await channel.call("echo", "next", timeout=TIMEOUT) == "next"
        task = asyncio.create_task(channel.call("wait", "late"))
        await asyncio.sleep(0.05)
        task.cancel()
        assert await channel.call("echo", "next", timeout=TIMEOUT) == "next"
        stream = channel.stream("until aborted")
        assert await anext(stream) == 0
        await stream.aclose()
        assert await logged(channel, "aborted")
        stream = channel.stream("until aborted")
        assert await anext(stream) == 0
        del stream
        assert await channel.call("echo", "next", timeout=TIMEOUT) == "next"
        assert await is_idle(channel)

    run(test)


@pytest.mark.parametrize("mode", ["", "polls"])
def test_the_abort_flag_ends_what_runs(run: Run, mode: str) -> None:
    async def test(channel: compat.Channel) -> None:
        got = []
        async for chunk in channel.stream("until aborted"):
            got.append(chunk)
            if chunk == 3:
                channel.cancel()
        assert got[:4] == [0, 1, 2, 3] and "late" not in got
        assert await channel.call("abort value", timeout=TIMEOUT) == 1
        channel.clear_abort()
        assert await channel.call("abort value", timeout=TIMEOUT) == 0
        task = asyncio.create_task(channel.call("wait", "in time", timeout=TIMEOUT))
        await asyncio.sleep(0.05)
        channel.cancel()
        assert await task == "in time"
        channel.clear_abort()
        # A worker need not answer what was aborted.
        task = asyncio.create_task(channel.call("wait", timeout=TIMEOUT))
        await asyncio.sleep(0.05)
        channel.cancel()
        with pytest.raises(compat.WorkerError):
            await task
        channel.clear_abort()
        async for _ in channel.stream("until aborted, no end"):
            channel.cancel()
        channel.clear_abort()
        assert await channel.call("echo", "next", timeout=TIMEOUT) == "next"

    run(test, mode=mode)


def test_chunks_after_an_abort_are_dropped(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        got = []
        async for chunk in channel.stream("until aborted, late"):
            got.append(chunk)
            if len(got) == 1:
                channel.cancel()
                assert await logged(channel, "aborted")
                channel.clear_abort()
        assert set(got) == {0}

    run(test)


def test_many_requests_wait_in_their_order(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        calls = [channel.call("echo", number, timeout=TIMEOUT) for number in range(300)]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0)
        assert channel.in_flight > 0
        assert await asyncio.gather(*tasks) == list(range(300))
        assert channel.in_flight == 0

    run(test)


def test_pings_do_not_wait_for_the_interpreter_lock(run: Run) -> None:
    async def test(channel: compat.Channel) -> None:
        await channel.call("echo", timeout=TIMEOUT)
        task = asyncio.create_task(channel.call("compute", 1.0, timeout=TIMEOUT))
        end = time.monotonic() + TIMEOUT
        while (await channel.ping(timeout=0.8)).state != "busy":
            assert time.monotonic() < end
            await asyncio.sleep(0.001)
        assert (await channel.ping(timeout=0.8)).state == "busy"
        assert not task.done()
        assert await task == "done"

    run(test)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_is_told(run: Run, number: signal.Signals) -> None:
    async def test(channel: compat.Channel) -> None:
        first = asyncio.create_task(channel.call("wait", timeout=TIMEOUT))
        await asyncio.sleep(0.05)
        crash = asyncio.create_task(channel.call("crash", int(number), timeout=TIMEOUT))
        behind = asyncio.create_task(channel.call("echo", timeout=TIMEOUT))
        await asyncio.sleep(0)
        first.cancel()
        for task in (crash, behind):
            with pytest.raises(compat.WorkerCrashError) as raised:
                await task
            error = raised.value
            assert isinstance(error, compat.WorkerError) and error.role == "embed"
            assert error.log_path == channel.log_path
            assert error.log_tail is not None and "about to crash" in error.log_tail
            assert number.name in str(error)
            assert number == signal.SIGKILL or "in serve" in error.log_tail
            assert error.original_type == "WorkerCrashError"
        assert not channel.is_alive and await logged(channel, "[supervisor] killed by signal")
        with pytest.raises(compat.WorkerCrashError):
            await channel.ping(timeout=TIMEOUT)
        await channel.close()

    run(test)


def test_a_function_that_raises_or_returns_is_a_crash(log_dir: Path) -> None:
    async def main() -> None:
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig(mode="raises"))
        with pytest.raises(compat.WorkerCrashError, match="no such model") as raised:
            await channel.call("echo", timeout=TIMEOUT)
        assert raised.value.original_type in ("LookupError", "WorkerCrashError")
        assert await logged(channel, "LookupError: no such model")
        assert await logged(channel, "health: end")
        await channel.close()
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig(mode="exits"))
        with pytest.raises(compat.WorkerCrashError):
            await channel.call("echo", timeout=TIMEOUT)
        await channel.close()

    asyncio.run(main())


def test_a_closed_channel_refuses_requests(log_dir: Path) -> None:
    async def main() -> None:
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig())
        waits = asyncio.create_task(channel.call("wait"))
        await asyncio.sleep(0.3)
        await channel.close(timeout=TIMEOUT)
        await channel.close()
        for refused in (waits, channel.call("echo"), channel.ping()):
            with pytest.raises(compat.WorkerError) as raised:
                await refused
            assert raised.value.original_type == "PoolShutdownError"
        with pytest.raises(compat.WorkerError) as raised:
            channel.stream("count", 3)
        assert raised.value.original_type == "PoolShutdownError"
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig())
        os.kill(channel.pid, signal.SIGKILL)
        await channel.close()
        await channel.close()

    asyncio.run(main())


def test_a_worker_that_hangs_is_ended_within_the_timeout(log_dir: Path) -> None:
    async def main() -> None:
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig())
        hang = asyncio.create_task(channel.call("hang"))
        assert await logged(channel, "hangs")
        begun = time.monotonic()
        await channel.close(timeout=1.0)
        # It ignores SIGTERM.
        assert time.monotonic() - begun < 2.4
        with pytest.raises(compat.WorkerError):
            await hang
        channel, _ = compat.Spawner(log_dir).spawn(worker_main, RoleConfig())
        os.kill(channel.pid, signal.SIGSTOP)
        begun = time.monotonic()
        await channel.close(timeout=1.0)
        # The library alone would take 2.8 s.
        assert time.monotonic() - begun < 2.4

    asyncio.run(main())


def test_a_configuration_can_have_what_multiprocessing_shares(log_dir: Path) -> None:
    context = multiprocessing.get_context("spawn")
    their_end, theirs = context.Pipe()
    our_end, ours = slipring.Pipe()
    memory = SharedMemory(create=True, size=64)
    config = Shared(
        role="sharer",
        theirs=theirs,
        ours=ours,
        queue=context.Queue(),
        lock=context.Lock(),
        event=context.Event(),
        number=context.Value("i", 5),
        memory=memory,
    )

    async def main() -> None:
        for number in range(2):
            before = descriptors()
            channel, _ = compat.Spawner(log_dir).spawn(share, config)
            their_end.send("one")
            our_end.send("two")
            assert await channel.call("go", timeout=TIMEOUT) is False
            assert (their_end.recv(), our_end.recv()) == ("theirs got one", "ours got two")
            assert config.queue.get(timeout=TIMEOUT) == "queued"
            assert config.event.is_set() and config.number.value == 6 + number
            await channel.close(timeout=TIMEOUT)
            # The worker's end has not unlinked it.
            again = SharedMemory(memory.name)
            assert again.buf is not None and again.buf[0] == 1 + number
            again.close()
            del channel
            gc.collect()
            # But for those of the tracker of shared memory, and of the library's own thread.
            assert number == 0 or descriptors() == before
        theirs.close()
        ours.close()
        # Nothing of this process has the ends any more.
        with pytest.raises(EOFError):
            their_end.recv()
        with pytest.raises(EOFError):
            our_end.recv()

    try:
        asyncio.run(main())
    finally:
        memory.close()
        memory.unlink()
    config.queue.close()
    config.queue.join_thread()
    their_end.close()
    our_end.close()


SCRIPT = '''
import asyncio, sys, time
from dataclasses import dataclass
from slipring.compat import Spawner

@dataclass
class Config:
    role: str

def worker_main(data, health, abort, config):
    while True:
        kind, payload = data.recv()
        if kind == "shutdown":
            time.sleep(1.0)
            print("told to end", flush=True)
            return
        data.send(("result", (__name__, config.role, payload)))

async def main():
    channel, handle = Spawner().spawn(worker_main, Config("a role/with letters"), daemon=DAEMON)
    print(await channel.call("ask", Config("back")), handle.role, flush=True)

if __name__ == "__main__":
    asyncio.run(main())
'''


@pytest.mark.parametrize("daemon", [False, True])
def test_the_main_module_may_have_the_function(tmp_path: Path, daemon: bool) -> None:
    script = tmp_path / "host.py"
    script.write_text(SCRIPT.replace("DAEMON", str(daemon)))
    logs = tmp_path / "logs"
    ran = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, compat.LOG_DIR: str(logs)},
        timeout=TIMEOUT * 2,
    )
    expected = "('__mp_main__', 'a role/with letters', Config(role='back')) a role/with letters"
    assert ran.stdout.strip() == expected and ran.stderr == ""
    (log,) = logs.iterdir()
    assert log.name == "worker-a-role-with-letters.log"
    assert daemon or "told to end" in log.read_text()


def test_what_cannot_be_started_is_told(log_dir: Path) -> None:
    spawner = compat.Spawner(log_dir)
    with pytest.raises(compat.WorkerError) as raised:
        spawner.spawn(lambda *_: None, RoleConfig())
    assert raised.value.original_type == "PickleError"
    with pytest.raises(compat.WorkerError) as raised:
        spawner.spawn(worker_main, RoleConfig(mode=threading.Lock()))  # type: ignore[arg-type]
    assert raised.value.original_type == "PickleError"

    ends = [slipring.Pipe() for _ in range(6)]
    with pytest.raises(compat.WorkerError, match="more than 15 descriptors") as raised:
        spawner.spawn(worker_main, RoleConfig(mode=[one for one, _ in ends]))  # type: ignore[arg-type]
    assert raised.value.original_type == "PickleError"

    async def main() -> None:
        channel, _ = spawner.spawn(worker_main, RoleConfig(mode=NotToUnpickle("a", "b")))  # type: ignore[arg-type]
        with pytest.raises(compat.WorkerCrashError, match="second"):
            await channel.call("echo", timeout=TIMEOUT)
        await channel.close()

    asyncio.run(main())


def test_errors_are_exceptions_that_can_be_pickled(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("x" * 5000 + "the end")
    error = compat.WorkerError("ValueError", "no", "trace")
    crash = compat.WorkerCrashError("embed", log)
    assert crash.log_tail is not None and crash.log_tail.endswith("xthe end")
    assert compat.WorkerCrashError("embed").log_path is None
    for made in (error, crash):
        again = pickle.loads(pickle.dumps(made))
        assert type(again) is type(made) and str(again) == str(made)
        assert again.__dict__ == made.__dict__
    told = compat.error_payload(NotToUnpickle("a", "b"))
    assert (told.type_name, told.message) == ("NotToUnpickle", "a b")
    assert pickle.loads(pickle.dumps(told)) == told
