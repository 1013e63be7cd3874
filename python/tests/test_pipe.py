"""Connections of `slipring.Pipe`, between threads and processes."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipring
from hypothesis import given, settings
from hypothesis import strategies as st

METHODS = ("fork", "spawn", "forkserver")
Conn = slipring.Connection

# A host with threads that forks is warned by CPython. Here no lock of the parent's is used.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@contextlib.contextmanager
def started(method: str, target: Any, *args: Any) -> Iterator[Any]:
    """Run a child process, which is ended at last."""
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def echo(connection: Conn) -> None:
    """Send back what comes."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send(connection.recv())


def echo_bytes(connection: Conn) -> None:
    """Send back the bytes that come."""
    with contextlib.suppress(EOFError):
        while True:
            connection.send_bytes(connection.recv_bytes())


def sleep(*_: Any) -> None:
    """Hold the arguments."""
    time.sleep(1000)


def test_a_pipe_has_what_multiprocessings_connections_have() -> None:
    for name in dir(multiprocessing.connection.Connection):
        assert name.startswith("_") or hasattr(slipring.Connection, name), name
    first, second = slipring.Pipe(False)
    assert (first.readable, first.writable) == (True, False)
    assert (second.readable, second.writable) == (False, True)
    with pytest.raises(OSError, match="read-only"):
        first.send(1)
    for look in (second.recv, second.recv_bytes, second.poll):
        with pytest.raises(OSError, match="write-only"):
            look()
    both = slipring.Pipe()
    assert all(end.readable and end.writable and not end.closed for end in both)


def test_bytes_and_their_parts_arrive() -> None:
    a, b = slipring.Pipe()
    for data, arguments, expected in (
        (b"hello", (), b"hello"),
        (b"hello", (1,), b"ello"),
        (b"hello", (1, 3), b"ell"),
        (b"hello", (5,), b""),
        (b"", (), b""),
        (bytearray(b"mutable"), (), b"mutable"),
        (memoryview(b"viewed"), (2, 2), b"ew"),
        (array.array("i", [1, 2]), (), array.array("i", [1, 2]).tobytes()),
        (np.arange(3.0), (8, 8), np.array([1.0]).tobytes()),
    ):
        a.send_bytes(data, *arguments)
        assert b.recv_bytes() == expected


def test_what_cannot_be_sent_is_refused_as_by_multiprocessing() -> None:
    for pipe in (multiprocessing.Pipe, slipring.Pipe):
        a: Any = pipe()[0]
        for arguments in ((b"abc", -1), (b"abc", 4), (b"abc", 1, -1), (b"abc", 1, 3)):
            with pytest.raises(ValueError):
                a.send_bytes(*arguments)
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                a.send_bytes(wrong)
        with pytest.raises(ValueError):
            a.recv_bytes(-1)


def test_bytes_are_received_into_a_buffer() -> None:
    a, b = slipring.Pipe()
    target = bytearray(10)
    a.send_bytes(b"hello")
    assert b.recv_bytes_into(target, 3) == 5
    assert target == b"\0\0\0hello\0\0"
    numbers = array.array("i", [0] * 4)
    a.send_bytes(array.array("i", [7, 8]))
    assert b.recv_bytes_into(numbers, 4) == 8
    assert list(numbers) == [0, 7, 8, 0]
    a.send_bytes(b"longer than ten")
    with pytest.raises(multiprocessing.BufferTooShort) as short:
        b.recv_bytes_into(target)
    assert short.value.args == (b"longer than ten",)
    for wrong in (-1, 11):
        with pytest.raises(ValueError):
            b.recv_bytes_into(target, wrong)
    with pytest.raises((TypeError, BufferError)):
        b.recv_bytes_into(b"read-only")


def test_a_message_that_is_too_long_ends_the_reading() -> None:
    a, b = slipring.Pipe()
    a.send_bytes(b"12345")
    assert b.recv_bytes(5) == b"12345"
    a.send_bytes(b"123456")
    with pytest.raises(OSError, match="bad message length"):
        b.recv_bytes(5)
    assert not b.readable and b.writable
    reader, writer = slipring.Pipe(False)
    writer.send_bytes(b"12")
    with pytest.raises(OSError):
        reader.recv_bytes(1)
    assert reader.closed


def test_closed_connections_say_so() -> None:
    with slipring.Pipe()[0] as a:
        assert not a.closed
    assert a.closed
    a.close()
    for use in (a.recv, a.recv_bytes, a.poll, a.fileno, lambda: a.send(1), lambda: a.send_bytes(b"")):
        with pytest.raises(OSError, match="handle is closed"):
            use()


def test_the_end_of_a_pipe_is_told() -> None:
    a, b = slipring.Pipe()
    a.send("last words")
    a.close()
    assert b.poll() and b.recv() == "last words"
    assert b.poll() and b.poll(None)
    for receive in (b.recv, b.recv_bytes, lambda: b.recv_bytes_into(bytearray(9))):
        with pytest.raises(EOFError):
            receive()
    for message in (b"x", b"x" * 1_000_000):
        with pytest.raises(BrokenPipeError) as broken:
            b.send_bytes(message)
    assert broken.value.errno == 32
    a, b = slipring.Pipe()
    a.send(1)
    del b
    with pytest.raises(BrokenPipeError):
        a.send(2)


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


def forward(connection: Any) -> None:
    """Answer through a connection that comes over another one."""
    inner = connection.recv()
    inner.send(("through", inner.recv()))
    inner.close()


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


def count_up(connection: Conn, lock: Any, name: int, count: int) -> None:
    """Send numbers, one after the other, between those of others."""
    for number in range(count):
        with lock:
            connection.send((name, number, b"x" * (number * 37 % 9000)))
    connection.close()


def take_all(connection: Conn, lock: Any, results: Any) -> None:
    """Receive what others leave."""
    taken = []
    with contextlib.suppress(EOFError):
        while True:
            with lock:
                name, number, data = connection.recv()
            assert data == b"x" * (number * 37 % 9000)
            taken.append((name, number))
    results.put(taken)


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


def read_a_part(connection: Conn) -> None:
    """Begin to receive, and stop in between."""
    signal.signal(signal.SIGALRM, lambda *_: time.sleep(1000))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    connection.recv_bytes()


def test_two_long_messages_cross_while_threads_read() -> None:
    a, b = slipring.Pipe()
    data = os.urandom(5_000_000)
    got: dict[str, bytes] = {}

    def run(name: str, end: Conn) -> None:
        sender = threading.Thread(target=end.send_bytes, args=(data,))
        sender.start()
        got[name] = end.recv_bytes()
        sender.join()

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", a), ("b", b))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"a": data, "b": data}


def test_threads_that_share_an_end_mix_nothing_up() -> None:
    a, b = slipring.Pipe()

    def run(n: int) -> None:
        for i in range(300):
            a.send((n, i, "x" * (i * 91 % 5000)))

    senders = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for sender in senders:
        sender.start()
    seen: dict[int, list[int]] = {n: [] for n in range(4)}
    for _ in range(1200):
        n, i, text = b.recv()
        assert text == "x" * (i * 91 % 5000)
        seen[n].append(i)
    assert all(numbers == list(range(300)) for numbers in seen.values())
    for sender in senders:
        sender.join()


def test_wait_returns_exactly_what_has_something() -> None:
    pipes = [slipring.Pipe() for _ in range(3)]
    readers = [reader for reader, _ in pipes]
    wait: Any = multiprocessing.connection.wait
    assert wait(readers, 0) == []
    pipes[1][1].send("one")
    pipes[1][1].send("two")
    assert wait(readers, 5) == [readers[1]]
    assert readers[1].recv() == "one"
    assert wait(readers, 0) == [readers[1]]
    assert readers[1].recv() == "two"
    assert wait(readers, 0) == []
    assert wait(readers, 0.01) == []
    pipes[2][1].close()
    assert wait(readers) == [readers[2]]


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


def send_numbers(connection: Conn, count: int) -> None:
    """Send numbers with pauses now and then."""
    for number in range(count):
        connection.send(number)
        if number % 100 == 0:
            time.sleep(0.001)


def test_poll_waits_for_as_long_as_it_is_told() -> None:
    a, b = slipring.Pipe()
    start = time.monotonic()
    assert not b.poll()
    assert not b.poll(-1)
    assert not b.poll(0.05)
    assert time.monotonic() - start >= 0.05
    threading.Timer(0.05, a.send, ("late",)).start()
    assert b.poll(None)
    assert b.poll(10) and b.recv() == "late"


def test_arrays_are_not_copied_into_the_pickle() -> None:
    a, b = slipring.Pipe()
    vectors = np.arange(64 * 384, dtype=np.float32).reshape(64, 384)
    frozen = vectors.copy()
    frozen.flags.writeable = False
    small = np.arange(4)
    swapped = vectors.T[::2]
    a.send({"v": vectors, "f": frozen, "s": small, "t": swapped, "same": vectors})
    got = b.recv()
    for name, array_ in (("v", vectors), ("f", frozen), ("s", small), ("t", swapped)):
        assert np.array_equal(got[name], array_) and got[name].dtype == array_.dtype
    assert got["same"] is got["v"]
    assert got["v"].flags.writeable and not got["f"].flags.writeable
    got["v"][0, 0] = 5
    a.send(vectors)
    data = b.recv_bytes()
    assert len(data) > vectors.nbytes and np.array_equal(pickle.loads(data), vectors)
    a.send((vectors, frozen))
    mutable, read_only = pickle.loads(b.recv_bytes())
    assert mutable.flags.writeable and not read_only.flags.writeable
    b.send_bytes(pickle.dumps("by hand"))
    assert a.recv() == "by hand"


class Registered:
    """Has a reducer of its own."""

    def __reduce__(self) -> Any:
        raise TypeError("only the registry knows how")


def make_registered() -> Registered:
    """Return what the reducer says."""
    return Registered()


def test_the_registry_of_the_forking_pickler_is_honoured() -> None:
    a, b = slipring.Pipe()
    with pytest.raises(TypeError):
        a.send([Registered()])
    ForkingPickler.register(Registered, lambda _: (make_registered, ()))
    try:
        a.send([Registered()])
    finally:
        ForkingPickler._extra_reducers.pop(Registered)  # type: ignore[attr-defined]
    assert isinstance(b.recv()[0], Registered)
    assert not b.poll()


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


def send_a_lambda(connection: Conn) -> None:
    """Send what only a pickler like cloudpickle can."""
    connection.send(lambda x: x + 1)
    time.sleep(100)


def tasks() -> int:
    """Return how many threads the process has, as the kernel sees it."""
    return len(list(Path("/proc/self/task").iterdir()))


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


def receive_and_answer(connection: Conn) -> None:
    """Receive one object and send it back."""
    connection.send(connection.recv())
    time.sleep(100)


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


def descriptors() -> int:
    """Return how many descriptors the process has."""
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_of_closed_pipes() -> None:
    gc.collect()
    before = descriptors()
    for use in range(200):
        a, b = slipring.Pipe(use % 2 == 0)
        b.send(use)
        assert a.recv() == use
        if use % 3 == 0:
            a.close()
            b.close()
    del a, b
    assert descriptors() == before


def resident() -> int:
    """Return the bytes of memory that the process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_messages_leave_no_memory_behind() -> None:
    a, b = slipring.Pipe()
    vectors = np.zeros((64, 384), np.float32)

    def run(count: int) -> int:
        for number in range(count):
            a.send(("v", vectors, number))
            b.recv()
            a.send_bytes(b"x" * (number % 5000))
            b.recv_bytes()
        return resident()

    before = run(3000)
    assert run(10_000) - before < 4 << 20


def test_wrong_sizes_of_rings_are_refused() -> None:
    for ring in (0, 1000, 5000):
        with pytest.raises(slipring.InvalidInput):
            slipring.Pipe(ring=ring)
    a, b = slipring.Pipe(ring=4096)
    sender = threading.Thread(target=a.send_bytes, args=(b"x" * 100_000,))
    sender.start()
    assert b.recv_bytes() == b"x" * 100_000
    sender.join()


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_OBJECTS = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(_OBJECTS, max_size=5))
def test_any_object_arrives_as_it_was(things: list[Any]) -> None:
    a, b = slipring.Pipe()
    for thing in things:
        a.send(thing)
    for thing in things:
        assert b.recv() == thing
    assert not b.poll()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 20_000), max_size=12), st.sampled_from((4096, 8192)))
def test_messages_of_any_lengths_arrive_in_order(lengths: list[int], ring: int) -> None:
    a, b = slipring.Pipe(ring=ring)
    messages = [bytes([n & 255]) * length for n, length in enumerate(lengths)]

    def run() -> None:
        for message in messages:
            a.send_bytes(message)

    sender = threading.Thread(target=run)
    sender.start()
    for message in messages:
        assert b.recv_bytes() == message
    sender.join()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=8))
def test_buffers_of_any_lengths_arrive(sizes: list[tuple[int, bool]]) -> None:
    a, b = slipring.Pipe()
    arrays = [np.arange(size, dtype=np.uint8) for size, _ in sizes]
    for array_, (_, writeable) in zip(arrays, sizes, strict=True):
        array_.flags.writeable = writeable
    for receive in (b.recv, lambda: pickle.loads(b.recv_bytes())):
        a.send(arrays)
        for got, array_ in zip(receive(), arrays, strict=True):
            assert np.array_equal(got, array_) and got.flags.writeable == array_.flags.writeable
