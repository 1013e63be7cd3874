"""Connections of `slipring.Pipe` between processes."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import slipring
from pipe_children import (
    count_up,
    echo,
    echo_bytes,
    forward,
    read_a_part,
    receive_and_answer,
    send_a_lambda,
    send_and_receive,
    send_numbers,
    sleep,
    started,
    take_all,
)

METHODS = ("fork", "spawn", "forkserver")

# A host with threads that forks is warned by CPython. Here no lock of the parent's is used.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("method", METHODS)
def test_objects_cross_to_a_child_and_back(method: str) -> None:
    here, there = slipring.Pipe()
    with started(method, echo, there):
        there.close()
        for thing in (
            None,
            {"a": [1, 2.5, "text", b"bytes"]},
            "x" * 1_000_000,
            b"y" * 3_000_000,
            bytearray(b"z" * 300_000),
            [list(range(1000))] * 3,
            slice(1, 2, 3),
        ):
            here.send(thing)
            assert here.recv() == thing


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_child_is_the_end_of_its_pipe(method: str) -> None:
    here, there = slipring.Pipe()
    with started(method, sleep, there) as child:
        there.close()
        if method == "fork":
            # A forked child holds this end as well, as with `multiprocessing`.
            here, there = slipring.Pipe()
            child.kill()
            there.close()
        killer = threading.Timer(0.1, child.kill)
        killer.start()
        with pytest.raises(EOFError):
            here.recv()
        killer.join()
        with pytest.raises(BrokenPipeError):
            while True:
                here.send_bytes(b"x" * 1000)


def test_a_sender_that_waits_for_room_learns_of_the_death() -> None:
    here, there = slipring.Pipe()
    with started("spawn", sleep, there) as child:
        there.close()
        threading.Timer(0.5, child.kill).start()
        with pytest.raises(BrokenPipeError):
            here.send_bytes(b"x" * 10_000_000)


@pytest.mark.parametrize("outer", (slipring.Pipe, multiprocessing.Pipe))
def test_a_connection_crosses_over_another_one(outer: Any) -> None:
    here, there = outer()
    with started("spawn", forward, there):
        mine, yours = slipring.Pipe()
        here.send(yours)
        yours.close()
        mine.send("question")
        assert mine.recv() == ("through", "question")
        with pytest.raises(EOFError):
            mine.recv()
        if outer is slipring.Pipe:
            here.close()


@pytest.mark.parametrize("method", METHODS)
def test_processes_share_both_ends_behind_locks(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    reader, writer = slipring.Pipe(False)
    read_lock, write_lock, results = context.Lock(), context.Lock(), context.SimpleQueue()
    with contextlib.ExitStack() as stack:
        for name in range(3):
            stack.enter_context(started(method, count_up, writer, write_lock, name, 400))
        if method != "fork":
            # Forked readers would hold the writer's end.
            writer.close()
            for _ in range(2):
                stack.enter_context(started(method, take_all, reader, read_lock, results))
            taken = sorted(results.get() + results.get())
        else:
            taken = sorted(reader.recv()[:2] for _ in range(1200))
        assert taken == [(name, number) for name in range(3) for number in range(400)]


def test_a_reader_that_is_killed_within_a_message_leaves_the_next_one_whole() -> None:
    here, there = slipring.Pipe()
    sender = threading.Thread(target=here.send_bytes, args=(b"x" * 30_000_000,))
    with started("spawn", read_a_part, there) as child:
        sender.start()
        time.sleep(0.5)
        child.kill()
        child.join()
        taker: list[bytes] = []
        reader = threading.Thread(target=lambda: taker.append(there.recv_bytes()))
        reader.start()
        sender.join()
        here.send_bytes(b"whole")
        reader.join()
        # If the child has taken nothing, the long one is whole.
        assert taker[0] in (b"whole", b"x" * 30_000_000)


def test_wait_wakes_for_each_message_of_a_child_and_for_no_other_reason() -> None:
    here, there = slipring.Pipe()
    with started("spawn", echo, there):
        wait: Any = multiprocessing.connection.wait
        for number in range(2000):
            here.send(number)
            if number % 3 == 0:
                here.send(number)
            for _ in range(2 if number % 3 == 0 else 1):
                assert wait([here], 60) == [here]
                assert here.poll()
                assert here.recv() == number
        assert wait([here], 0) == []


def test_asyncio_reads_by_the_descriptor() -> None:
    async def run() -> tuple[list[int], int]:
        here, there = slipring.Pipe()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        received: list[int] = []
        idle = 0

        def read() -> None:
            nonlocal idle
            if not here.poll():
                idle += 1
                return
            try:
                received.append(here.recv())
            except EOFError:
                loop.remove_reader(here.fileno())
                done.set_result(None)

        with started("spawn", send_numbers, there, 3000):
            there.close()
            loop.add_reader(here.fileno(), read)
            await done
        return received, idle

    received, idle = asyncio.run(run())
    assert received == list(range(3000))
    assert idle == 0


class Shouting:
    """A pickler that is no module."""

    @staticmethod
    def dumps(obj: Any, protocol: int, *, buffer_callback: Any = None) -> bytes:
        """Return the pickle of the object in capitals."""
        return pickle.dumps(obj.upper(), protocol, buffer_callback=buffer_callback)


def test_a_pickler_can_be_set_and_goes_along() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    here, there = slipring.Pipe(pickler=cloudpickle)
    with pytest.raises(Exception, match="lambda|pickle"):
        slipring.Pipe()[0].send(lambda: 1)
    assert here.pickler is cloudpickle
    with started("spawn", send_a_lambda, there):
        assert here.recv()(20) == 21
    loud, ear = slipring.Pipe(pickler=Shouting())
    loud.send("quiet")
    assert ear.recv() == "QUIET"


def test_a_pipe_starts_no_thread() -> None:
    script = """if True:
        import os, slipring
        a, b = slipring.Pipe()
        a.send(1); b.recv(); b.poll(0.01); a.fileno()
        a.send_bytes(b'x' * 100_000); b.recv_bytes()
        print(len(os.listdir('/proc/self/task')))"""
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "1"


def test_a_child_that_is_forked_during_a_wait_can_use_the_pipe() -> None:
    a, b = slipring.Pipe()
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(b.recv()))
    waiting.start()
    time.sleep(0.05)
    with started("fork", receive_and_answer, b):
        a.send("one")
        a.send("two")
        answers = set()
        if not got:
            waiting.join(0.1)
        if got:
            answers.add(got[0])
        answers.add(a.recv())
        if len(answers) < 2:
            waiting.join()
            answers.add(got[0])
        assert answers == {"one", "two"}
        waiting.join()


INTERRUPTED = """if True:
    import os, signal, slipring, sys, threading, time
    what, fork = sys.argv[1], None
    a, b = slipring.Pipe()
    data = os.urandom(20_000_000)
    def interrupt():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
    def part():
        b.send_bytes(data)
    if what == 'message':
        # The sender is stopped in the middle of a message.
        if os.fork() == 0:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGSTOP)).start()
            for _ in range(1000):
                b.send_bytes(data)
            os._exit(0)
    threading.Thread(target=interrupt).start()
    try:
        if what == 'recv': a.recv()
        elif what == 'poll': a.poll(None)
        elif what == 'send': a.send_bytes(data)
        elif what == 'message':
            while True: assert a.recv_bytes() == data
    except KeyboardInterrupt:
        print('interrupted')
    if what == 'send':
        # What was sent of the message is given up.
        threading.Thread(target=a.send, args=('after',)).start()
        print(b.recv())
    elif what == 'message':
        os.killpg(0, signal.SIGCONT)
        assert a.recv_bytes() == data
        print('after')
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    else:
        b.send('after')
        print(a.recv())
"""


@pytest.mark.parametrize("what", ("recv", "poll", "send", "message"))
def test_ctrl_c_ends_a_wait_and_hurts_nothing(what: str) -> None:
    out = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, what],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert (out.stdout.split(), out.stderr) == (["interrupted", "after"], "")


WITHIN = """if True:
    import os, signal, slipring, sys, threading, time
    what, handled, got = sys.argv[1], threading.Event(), []
    a, b = slipring.Pipe()
    data = os.urandom(3_000_000)
    def handle(*_):
        child = os.fork() if what == 'fork' else None
        if child:
            os.waitpid(child, 0)
        try:
            a.send_bytes(b'within') if what == 'send' else a.recv_bytes()
        except RuntimeError as error:
            print(error, flush=True)
        if child == 0:
            os._exit(0)
        handled.set()
    def beside():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGALRM)
        handled.wait()
        got.append(b.recv_bytes()) if what == 'send' else b.send_bytes(data)
    signal.signal(signal.SIGALRM, handle)
    thread = threading.Thread(target=beside)
    thread.start()
    a.send_bytes(data) if what == 'send' else got.append(a.recv_bytes())
    thread.join()
    print(got == [data])
"""


@pytest.mark.parametrize("what", ("recv", "send", "fork"))
def test_a_signal_handler_cannot_use_what_it_has_interrupted(what: str) -> None:
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHIN, what], capture_output=True, text=True, timeout=60
    )
    assert out.stderr == ""
    *refused, whole = out.stdout.splitlines()
    assert len(refused) == (2 if what == "fork" else 1) and whole == "True"
    assert all("already using this direction" in line for line in refused)


def test_a_busy_thread_beside_does_not_stop_a_transfer() -> None:
    here, there = slipring.Pipe()
    with started("spawn", echo_bytes, there):
        over = False

        def burn() -> None:
            while not over:
                sum(range(1000))

        burner = threading.Thread(target=burn)
        burner.start()
        try:
            for size in (10, 100_000, 5_000_000):
                data = os.urandom(size)
                sender = threading.Thread(target=here.send_bytes, args=(data,))
                sender.start()
                assert here.recv_bytes() == data
                sender.join()
        finally:
            over = True
            burner.join()


def test_two_long_sends_that_wait_for_each_other_end_with_one_of_the_two() -> None:
    here, there = slipring.Pipe()
    with started("spawn", send_and_receive, there, 3_000_000) as child:
        there.close()
        assert here.poll(None)
        threading.Timer(0.3, child.kill).start()
        with pytest.raises(BrokenPipeError):
            here.send_bytes(b"x" * 3_000_000)
