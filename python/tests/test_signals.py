"""Ctrl-C while the main thread waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import slipring

TIMEOUT = 30.0

Spawn = Callable[..., slipring.Channel]


class Interrupted(Exception):
    """What the handler of these tests raises."""


@contextmanager
def interrupted(after: float = 0.1) -> Iterator[None]:
    """Expect a wait to end soon after SIGINT has come."""
    sent: list[float] = []

    def handle(number: int, frame: object) -> None:
        raise Interrupted

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    timer = threading.Timer(after, send)
    timer.start()
    try:
        with pytest.raises(Interrupted):
            yield
        late = time.monotonic() - sent[0]
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    # 10 ms on a machine with nothing else to do. Without the signal it would last longer than this.
    assert late < TIMEOUT / 2


def is_well(channel: slipring.Channel) -> bool:
    """Return whether calls are answered, and nothing is left of what was interrupted."""
    if channel.call(7, timeout=TIMEOUT).text() != "kind 7":
        return False
    # What waits on a thread of its own takes a moment to end.
    end = time.monotonic() + TIMEOUT
    while channel.in_flight and time.monotonic() < end:
        time.sleep(0.001)
    return channel.in_flight == 0


def stop(pid: int) -> None:
    """Stop a process, and wait until all its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    while any(task.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for task in tasks):
        time.sleep(0.001)


def test_a_call_is_interrupted(channel: slipring.Channel) -> None:
    with interrupted():
        channel.call("wait")
    assert is_well(channel)


def test_ctrl_c_is_a_keyboard_interrupt(channel: slipring.Channel) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        channel.call("wait")
    timer.join()
    assert is_well(channel)


def test_a_wait_is_interrupted_and_goes_on_after_that(channel: slipring.Channel) -> None:
    pending = channel.submit("compute", "0.5", timeout=TIMEOUT)
    with interrupted():
        pending.wait()
    assert pending.wait().text() == "done"
    assert is_well(channel)


def test_a_stream_is_interrupted_and_goes_on_after_that(channel: slipring.Channel) -> None:
    stream = channel.stream("stall")
    assert next(stream).text() == "one"
    with interrupted():
        next(stream)
    with interrupted(0.002):
        next(stream)
    stream.cancel()
    with pytest.raises(slipring.Cancelled):
        next(stream)
    assert is_well(channel)


def test_a_stream_that_is_left_after_ctrl_c_ends(channel: slipring.Channel) -> None:
    stream = channel.stream("stall")
    assert next(stream).text() == "one"
    with interrupted():
        next(stream)
    del stream
    assert is_well(channel)


def test_a_wait_behind_another_reader_is_interrupted(channel: slipring.Channel) -> None:
    other = threading.Thread(target=lambda: channel.call("compute", "0.5", timeout=TIMEOUT))
    other.start()
    time.sleep(0.05)
    with interrupted():
        channel.call("wait")
    other.join()
    assert is_well(channel)


def test_a_wait_for_room_is_interrupted(channel: slipring.Channel) -> None:
    busy = channel.submit("wait")
    payload = bytes(1_000_000)
    sent: list[slipring.Pending] = []
    with interrupted(0.3):
        while True:
            sent.append(channel.submit("echo", payload, timeout=TIMEOUT))
    busy.cancel()
    with pytest.raises(slipring.Cancelled):
        busy.wait()
    assert [len(pending.wait()) for pending in sent] == [1_000_000] * len(sent)
    assert is_well(channel)


def test_ping_close_and_spawn_are_interrupted(spawn: Spawn) -> None:
    channel = spawn()
    stop(channel.pid)
    with interrupted():
        channel.ping(timeout=TIMEOUT)
    with interrupted():
        channel.wait_exit(timeout=TIMEOUT)
    with interrupted():
        channel.close(timeout=3.0)
    assert channel.close(timeout=3.0).signal is not None
    sleeper = slipring.Spawner(sys.executable, ["-c", "import time; time.sleep(20)"])
    with interrupted():
        sleeper.spawn()


FORKED_BY_A_THREAD = """
import os, signal, sys, threading, traceback
import slipring

class Interrupted(Exception):
    pass

def handle(number, frame):
    raise Interrupted

def wait_in_a_child():
    here, there = slipring.Pipe()
    there.send(1)
    here.recv()
    child = os.fork()
    if child != 0:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return
    try:
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        program = ["-c", "import time; time.sleep(100)"]
        slipring.Spawner(sys.executable, program, handshake_timeout=100.0).spawn()
    except Interrupted:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)

thread = threading.Thread(target=wait_in_a_child)
thread.start()
thread.join()
"""


def test_a_wait_is_interrupted_in_a_child_that_a_thread_has_forked() -> None:
    # The thread that forks is the main one of the child.
    command = [sys.executable, "-c", FORKED_BY_A_THREAD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n", done.stderr


@contextmanager
def calls_in_a_handler(channel: slipring.Channel, after: float) -> Iterator[list[str]]:
    """Have a signal handler make a call soon, and return what it was answered."""
    answers: list[str] = []

    def handle(number: int, frame: object) -> None:
        answers.append(channel.call("echo", "answer", timeout=TIMEOUT).text())

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield answers
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[slipring.Channel]:
    """Return the channel of a worker that serves several requests at the same time."""
    worker = Path(__file__).with_name("async_worker.py")
    spawner = slipring.Spawner(sys.executable, [worker], log_dir=tmp_path, handshake_timeout=60.0)
    with spawner.spawn() as channel:
        channel.wait_ready(timeout=60.0)
        yield channel


def test_a_signal_handler_makes_a_call_while_another_one_waits(tasks: slipring.Channel) -> None:
    with calls_in_a_handler(tasks, 0.1) as answers:
        tasks.call("sleep", "0.5", timeout=2 * TIMEOUT)
    assert answers == ["answer"]
    pending = tasks.submit("sleep", "0.5", timeout=2 * TIMEOUT)
    with calls_in_a_handler(tasks, 0.1) as answers:
        assert pending.poll(timeout=2 * TIMEOUT) is not None
    assert answers == ["answer"]


def test_a_signal_handler_makes_a_call_while_a_stream_waits(tasks: slipring.Channel) -> None:
    for after in (0.1, 0.002):
        with calls_in_a_handler(tasks, after) as answers:
            chunks = tasks.stream("late", "0.5", chunk_timeout=2 * TIMEOUT)
            assert [chunk.text() for chunk in chunks] == ["late"]
        assert answers == ["answer"]
