"""Workers that serve many requests at the same time: with tasks, and with an inbox."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import slipring
from slipring._worker import is_async

TIMEOUT = 30.0

Spawn = Callable[..., slipring.Channel]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Spawn]:
    """Start workers, which are ended after the test."""
    channels: list[slipring.Channel] = []

    def run(program: str, **options: Any) -> slipring.Channel:
        path = Path(__file__).with_name(program)
        options = {"role": "test", "log_dir": tmp_path, "handshake_timeout": 60.0, **options}
        channels.append(slipring.Spawner(sys.executable, [path], **options).spawn())
        channels[-1].wait_ready(timeout=TIMEOUT)
        return channels[-1]

    yield run
    for channel in channels:
        channel.close()


@pytest.fixture
def tasks(start: Spawn) -> slipring.Channel:
    """Return the channel of a worker whose handlers are async."""
    return start("async_worker.py")


@pytest.fixture
def batches(start: Spawn) -> slipring.Channel:
    """Return the channel of a worker that takes requests in batches."""
    return start("inbox_worker.py")


def seen_by(channel: slipring.Channel, line: str) -> bool:
    """Wait until a worker has noted a line."""
    end = time.monotonic() + TIMEOUT
    while line not in channel.call("seen", timeout=TIMEOUT).texts():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def log_of(channel: slipring.Channel) -> str:
    assert channel.log_path is not None
    return Path(channel.log_path).read_text()


def test_async_handlers_run_at_the_same_time(tasks: slipring.Channel) -> None:
    pending = [tasks.submit("sleep", "0.2", timeout=TIMEOUT) for _ in range(50)]
    assert max(int(request.wait().text()) for request in pending) == 50
    slow = tasks.submit("sleep", "0.3", timeout=TIMEOUT)
    assert bytes(tasks.call("echo", b"x" * 3_000_000, timeout=TIMEOUT)) == b"x" * 3_000_000
    assert slow.poll() is None, "the one behind it was answered first"
    assert slow.wait().text() == "50"
    assert tasks.call("sync", timeout=TIMEOUT).text() == "False test"


def test_async_generators_send_chunks(tasks: slipring.Channel) -> None:
    expected = [str(number) for number in range(500)]
    assert [chunk.text() for chunk in tasks.stream("count", "500")] == expected
    assert [chunk.text() for chunk in tasks.stream("sync count", "500")] == expected
    # The ring holds eight of these.
    stream = tasks.stream("large", "40")
    assert len(bytes(next(stream))) == 500_000
    assert bytes(tasks.call("echo", b"beside", timeout=TIMEOUT)) == b"beside"
    assert [bytes(chunk)[0] for chunk in stream] == list(range(1, 40))
    for kind in ("count", "sync count"):
        with pytest.raises(slipring.HandlerFailed, match="has to call `stream`"):
            tasks.call(kind, "3", timeout=TIMEOUT)
    assert [chunk.text() for chunk in tasks.stream("fail", "7")] == ["7"]


def test_a_cancel_ends_the_task_of_its_request(tasks: slipring.Channel) -> None:
    other = tasks.submit("sleep", "30", timeout=TIMEOUT)
    pending = tasks.submit("sleep", "60")
    while tasks.health().begun < 2:
        time.sleep(0.001)
    pending.cancel()
    with pytest.raises(slipring.Cancelled):
        pending.wait()
    assert seen_by(tasks, "cancelled True")
    with pytest.raises(TimeoutError):
        tasks.call("sleep", "60", timeout=0.05)
    stream = tasks.stream("count", "1000000")
    next(stream)
    stream.close()
    assert seen_by(tasks, "ended")
    aborted = tasks.submit("sleep", "60", timeout=TIMEOUT)
    tasks.abort()
    with pytest.raises(slipring.Cancelled):
        aborted.wait()
    with pytest.raises(slipring.Cancelled):
        other.wait()
    tasks.clear_abort()
    other = tasks.submit("sleep", "0.1", timeout=TIMEOUT)
    tasks.submit("stubborn").cancel()
    assert other.wait().text() == "2", "others go on"
    gc.collect()
    assert tasks.in_flight == 0


def test_exceptions_of_tasks_cross(tasks: slipring.Channel) -> None:
    with pytest.raises(slipring.HandlerFailed) as raised:
        tasks.call("fail", "seven", timeout=TIMEOUT)
    assert raised.value.type_name == "ValueError" and "int(request" in raised.value.traceback
    with pytest.raises(slipring.HandlerFailed, match="a payload is bytes"):
        tasks.call("odd", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed, match="no handler for"):
        tasks.call("no such kind", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed, match="StopIteration"):
        tasks.call("sync stop", timeout=TIMEOUT)
    with pytest.raises(slipring.Error, match="cancelled"):
        tasks.call("cancel itself", timeout=TIMEOUT)
    assert bytes(tasks.call("echo", b"still", timeout=TIMEOUT)) == b"still"


def test_a_worker_with_tasks_ends_when_told_to(start: Spawn) -> None:
    channel = start("async_worker.py")
    pending = [channel.submit("sleep", "60") for _ in range(5)]
    while channel.health().begun < 5:
        time.sleep(0.001)
    begun = time.monotonic()
    assert channel.close(timeout=TIMEOUT).code == 0
    assert time.monotonic() - begun < TIMEOUT, "its tasks were cancelled"
    for request in pending:
        with pytest.raises(slipring.Closed):
            request.wait()
    assert "Traceback" not in log_of(channel)
    channel = start("async_worker.py")
    with pytest.raises((slipring.HandlerFailed, slipring.PeerDied, slipring.SessionFailed)):
        channel.call("exit", "3", timeout=TIMEOUT)
    assert channel.wait_exit(timeout=TIMEOUT).code == 3
    channel = start("async_worker.py")
    with pytest.raises(slipring.PeerDied):
        channel.call("crash", timeout=TIMEOUT)
    with pytest.raises(slipring.SessionFailed, match="no model"):
        start("async_worker.py", mode="broken")


def test_more_tasks_than_may_be_taken_wait(tasks: slipring.Channel) -> None:
    pending = [tasks.submit("sleep", "0.02", timeout=TIMEOUT) for _ in range(500)]
    assert max(int(request.wait().text()) for request in pending) <= 200


def test_requests_are_answered_in_batches(batches: slipring.Channel) -> None:
    pending = [batches.submit("batch", str(number), timeout=TIMEOUT) for number in range(64)]
    replies = [request.wait().text().split() for request in pending]
    assert [number for _, number in replies] == [str(number) for number in range(64)]
    assert max(int(size) for size, _ in replies) == 32
    assert batches.call("batch", "alone", timeout=TIMEOUT).text() == "1 alone"


def test_taken_requests_fail_alone(batches: slipring.Channel) -> None:
    with pytest.raises(slipring.HandlerFailed, match="NoReply"):
        batches.call("forget", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed) as raised:
        batches.call("fail", timeout=TIMEOUT)
    assert raised.value.type_name == "LookupError"
    with pytest.raises(slipring.HandlerFailed, match="no handler for"):
        batches.call("no such kind", timeout=TIMEOUT)
    assert batches.call("twice", timeout=TIMEOUT).text() == "first"
    assert batches.call("odd", timeout=TIMEOUT).text() == "still open: True"
    with pytest.raises(slipring.HandlerFailed, match="call `stream`"):
        batches.call("chunks", "3", timeout=TIMEOUT)
    assert [chunk.text() for chunk in batches.stream("chunks", "300")] == [
        str(number) for number in range(300)
    ]
    assert [chunk.text() for chunk in batches.stream("batch", "x")] == ["1 x"]
    assert "refused: the request was answered" in log_of(batches)


def test_a_taken_request_sees_its_cancel(batches: slipring.Channel) -> None:
    waits = batches.submit("wait")
    while batches.health().taken < 1:
        time.sleep(0.001)
    assert "beside" in batches.call("batch", "beside", timeout=TIMEOUT).text()
    waits.cancel()
    with pytest.raises(slipring.Cancelled):
        waits.wait()
    # One that is cancelled before it is taken is not handed out.
    late = batches.submit("wait", timeout=TIMEOUT)
    late.cancel()
    with pytest.raises(slipring.Cancelled):
        late.wait()


def test_any_thread_answers(start: Spawn) -> None:
    channel = start("inbox_worker.py", mode="threads")
    pending = [channel.submit("batch", str(number), timeout=TIMEOUT) for number in range(200)]
    assert [request.wait().text().split()[1] for request in pending] == [
        str(number) for number in range(200)
    ]


def test_an_inbox_is_iterated_until_the_end(start: Spawn) -> None:
    channel = start("inbox_worker.py", mode="one")
    assert channel.call("batch", "one", timeout=TIMEOUT).text() == "1 one"
    waits = channel.submit("wait")
    assert channel.close(timeout=TIMEOUT).code == 0
    with pytest.raises(slipring.Closed):
        waits.wait()
    assert "the iterator has ended" in log_of(channel)


def test_an_inbox_waits_for_a_limited_time(start: Spawn) -> None:
    channel = start("inbox_worker.py", mode="timeout")
    end = time.monotonic() + TIMEOUT
    while "none yet" not in log_of(channel) and time.monotonic() < end:
        time.sleep(0.01)
    assert channel.call("batch", "late", timeout=TIMEOUT).text() == "1 late"
    assert channel.wait_exit(timeout=TIMEOUT).code == 3


def test_a_loop_that_fails_is_told(start: Spawn) -> None:
    channel = start("inbox_worker.py")
    with pytest.raises(slipring.Error) as raised:
        channel.call("raise", timeout=TIMEOUT)
    assert isinstance(raised.value, (slipring.HandlerFailed, slipring.PeerDied))
    assert channel.wait_exit(timeout=TIMEOUT).code == 1
    assert "the loop is broken" in log_of(channel)


def test_async_functions_are_known_in_all_forms() -> None:
    class Model:
        async def embed(self, request: slipring.Request) -> None: ...
        async def __call__(self, request: slipring.Request) -> None: ...
        def plain(self, request: slipring.Request) -> None: ...

    async def chunks(request: slipring.Request) -> AsyncIterator[str]:
        yield ""

    class Plain:
        def __call__(self, request: slipring.Request) -> None: ...

    model = Model()
    made: list[Callable[..., object]] = [model.embed, model, chunks, partial(partial(model.embed))]
    assert all(is_async(function) for function in made)
    made = [model.plain, Plain(), partial(model.plain), print, str]
    assert not any(is_async(function) for function in made)


def test_a_worker_is_described_in_one_way() -> None:
    worker = slipring.Worker()

    @worker.inbox("a")
    def serve(inbox: slipring.Inbox) -> None:
        pass

    with pytest.raises(ValueError, match="already"):
        worker.inbox("b")(serve)
    with pytest.raises(ValueError, match="without a kind"):
        slipring.Worker().inbox()
    worker.handler("b")(lambda request: None)
    with pytest.raises(ValueError, match="choose one"):
        worker.run()

    async def loop(inbox: slipring.Inbox) -> None:
        pass

    with pytest.raises(TypeError, match="async handlers"):
        slipring.Worker().inbox("a")(loop)
    with pytest.raises(ValueError, match="1 or more"):
        slipring.Worker(max_taken=0)


def test_a_signal_handler_takes_a_request_while_the_loop_waits(start: Spawn, tmp_path: Path) -> None:
    channel = start("inbox_worker.py", mode="signal")
    while not any("ready for signals" in log.read_text() for log in tmp_path.rglob("*.log")):
        time.sleep(0.01)
    # The loop has the first one, or the handler, if the loop waits already.
    os.kill(channel.pid, signal.SIGUSR1)
    told = {channel.call("batch", timeout=TIMEOUT).text() for _ in range(2)}
    assert "of the handler" in told
    channel.close(timeout=TIMEOUT)
