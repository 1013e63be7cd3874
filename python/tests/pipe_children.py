"""What the child processes of the tests of pipes do."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator
from typing import Any

from slipring import Connection as Conn


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


def forward(connection: Any) -> None:
    """Answer through a connection that comes over another one."""
    inner = connection.recv()
    inner.send(("through", inner.recv()))
    inner.close()


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


def read_a_part(connection: Conn) -> None:
    """Begin to receive, and stop in between."""
    signal.signal(signal.SIGALRM, lambda *_: time.sleep(1000))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    connection.recv_bytes()


def send_numbers(connection: Conn, count: int) -> None:
    """Send numbers with pauses now and then."""
    for number in range(count):
        connection.send(number)
        if number % 100 == 0:
            time.sleep(0.001)


def send_a_lambda(connection: Conn) -> None:
    """Send what only a pickler like cloudpickle can."""
    connection.send(lambda x: x + 1)
    time.sleep(100)


def receive_and_answer(connection: Conn) -> None:
    """Receive one object and send it back."""
    connection.send(connection.recv())
    time.sleep(100)


def send_and_receive(connection: Conn, size: int) -> None:
    """Send a long message and read only then."""
    connection.send_bytes(b"y" * size)
    connection.recv_bytes()
