"""Calls: what goes out, what comes back."""

from __future__ import annotations

import array
import ctypes
import importlib.util
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import slipring

TIMEOUT = 30.0
WORKER = Path(__file__).with_name("worker.py")

Spawn = Callable[..., slipring.Channel]


def test_bytes_come_back_as_they_went(channel: slipring.Channel) -> None:
    for payload in (b"", b"hello", bytearray(b"array"), memoryview(b"a view")[2:], b"x" * 3_000_000):
        reply = channel.call("echo", payload, timeout=TIMEOUT)
        assert bytes(reply) == bytes(payload)
        assert len(reply) == len(payload)
    assert bytes(channel.call("echo", timeout=TIMEOUT)) == b""
    assert channel.call("echo", "grüße", timeout=TIMEOUT).text() == "grüße"
    assert channel.call("echo", ["a", "", "ü"], timeout=TIMEOUT).texts() == ["a", "", "ü"]
    assert channel.call("upper", ("a", "ü"), timeout=TIMEOUT).texts() == ["A", "Ü"]
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"


def flags_of(memory: bytes | bytearray) -> list[str]:
    """Return what the kernel knows of the pages in the middle of an object."""
    middle = np.frombuffer(memory, np.uint8).ctypes.data + len(memory) // 2
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            is_inside = int(span[1], 16) <= middle < int(span[2], 16)
        elif is_inside and line.startswith("VmFlags:"):
            return line.split()
    raise AssertionError("the object lies nowhere")


def test_long_payloads_are_copied_into_huge_pages(channel: slipring.Channel) -> None:
    sent = os.urandom(40 << 20)
    assert "hg" not in flags_of(sent), "it is asked for by nothing else"
    reply = channel.call("echo", sent, timeout=TIMEOUT)
    copies = [bytes(reply), reply.bytearray()]
    a, b = slipring.Pipe()
    sender = threading.Thread(target=lambda: a.send_bytes(sent))
    sender.start()
    copies.append(b.recv_bytes())
    sender.join()
    for copy in copies:
        assert copy == sent and "hg" in flags_of(copy)


def test_texts_become_an_array_of_the_hosts_own(channel: slipring.Channel) -> None:
    vectors = channel.call("embed", ["abc", ""], timeout=TIMEOUT).array()
    assert vectors.shape == (2, 384) and vectors.dtype == np.float32
    assert vectors[0, :4].tolist() == [97.0, 98.0, 99.0, 0.0]
    assert vectors.flags.writeable and vectors.base is None


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "uint8"])
def test_arrays_of_each_type_come_back(channel: slipring.Channel, kind: str) -> None:
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    sent: npt.NDArray[Any] = np.arange(12).reshape(3, 4).astype(kind)
    reply = channel.call("echo", sent, timeout=TIMEOUT)
    for got in (reply.array(), reply.view()):
        assert got.dtype == sent.dtype and np.array_equal(got, sent)
    assert np.array_equal(channel.call("double", sent, timeout=TIMEOUT).array(), 2 * sent)
    read_only = sent.view()
    read_only.flags.writeable = False
    pending = channel.submit("echo", read_only, timeout=TIMEOUT)
    assert np.array_equal(pending.wait().array(), sent)
    empty = channel.call("echo", sent[:0], timeout=TIMEOUT)
    assert empty.array().shape == empty.view().shape == (0, 4)
    # Elements that do not lie row by row are copied.
    odd: npt.NDArray[Any]
    for odd in (sent.T, sent[:, ::2], sent[::-1]):
        assert not odd.flags.c_contiguous
        assert np.array_equal(channel.call("echo", odd, timeout=TIMEOUT).array(), odd)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_an_array_of_one_dimension_is_a_row(channel: slipring.Channel, kind: str) -> None:
    if kind == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    sent: npt.NDArray[Any] = np.arange(384).astype(kind)
    for row in (sent, sent[::3], sent[:0]):
        got = channel.call("echo", row, timeout=TIMEOUT).array()
        assert got.dtype == sent.dtype and np.array_equal(got, [row])


def test_a_row_of_single_bytes_is_bytes(channel: slipring.Channel) -> None:
    for kind in (np.int8, np.uint8):
        row = np.arange(12).astype(kind)
        assert bytes(channel.call("echo", row, timeout=TIMEOUT)) == bytes(range(12))
        got = channel.call("echo", row.reshape(1, -1), timeout=TIMEOUT).array()
        assert np.array_equal(got, [row])


def test_bfloat16_lies_as_in_the_vectors(channel: slipring.Channel) -> None:
    vectors = Path(__file__).parents[2] / "tests" / "data" / "payload-vectors.txt"
    lines = [line.split() for line in vectors.read_text().splitlines()]
    (fields,) = [line for line in lines if line[:2] == ["matrix", "bf16-1x3"]]
    encoding = bytes.fromhex(fields[-1])
    reply = channel.call("echo", encoding, timeout=TIMEOUT)
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    assert reply.array().dtype == ml_dtypes.bfloat16
    bits = [[int(digits, 16) for digits in fields[5:-1]]]
    assert reply.array().view(np.uint16).tolist() == bits
    assert bytes(channel.call("echo", reply.array(), timeout=TIMEOUT)) == encoding


WITHOUT_ML_DTYPES = """
import sys
import slipring

sys.modules["ml_dtypes"] = None
with slipring.Spawner(sys.executable, [sys.argv[1]], role="test").spawn() as channel:
    reply = channel.call("echo", bytes.fromhex(sys.argv[2]), timeout=60)
    for read in (reply.array, reply.view):
        try:
            read()
        except ImportError as error:
            print(error)
"""


def test_bfloat16_without_its_package_is_an_import_error() -> None:
    # A header and one element.
    encoding = "01000000" + "01000000" + "0300000000000000" + "0200000000000000" + "00" * 8 + "803f"
    command = [sys.executable, "-c", WITHOUT_ML_DTYPES, str(WORKER), encoding]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = printed.stdout.splitlines()
    assert len(lines) == 2
    assert all("bfloat16 needs the package ml_dtypes" in line for line in lines)


def test_a_matrix_longer_than_a_frame_comes_back(channel: slipring.Channel) -> None:
    sent = np.random.default_rng(1).random((2000, 400), dtype=np.float32)
    reply = channel.call("double", sent, timeout=TIMEOUT)
    assert np.array_equal(reply.array(), 2 * sent) and np.array_equal(reply.view(), 2 * sent)


def test_a_number_that_is_no_payload_is_refused_with_what_is(channel: slipring.Channel) -> None:
    zero: npt.NDArray[Any] = np.array(0, np.uint8)
    numbers: list[Any] = [np.float32(1.0), zero, ctypes.c_float(1.0)]
    if importlib.util.find_spec("ml_dtypes"):
        numbers.append(importlib.import_module("ml_dtypes").bfloat16(1.0))
    for number in numbers:
        with pytest.raises(TypeError, match="no dimensions: it must have two, or one.* use reshape"):
            channel.call("echo", number, timeout=TIMEOUT)


def test_arrays_that_lend_no_memory_are_refused_with_what_is_taken(channel: slipring.Channel) -> None:
    arrays: list[npt.NDArray[Any]] = [np.zeros((2, 2), "datetime64[s]")]
    if importlib.util.find_spec("ml_dtypes"):
        arrays.append(np.zeros((2, 2), importlib.import_module("ml_dtypes").float8_e4m3fn))
    for refused in arrays:
        expected = f"an array of {re.escape(refused.dtype.name)}: it must be float32, .* use astype"
        with pytest.raises(TypeError, match=expected):
            channel.call("echo", refused, timeout=TIMEOUT)


def test_what_is_no_payload_is_refused(channel: slipring.Channel) -> None:
    refused: list[object] = [
        7,
        [b"bytes"],
        [0.5, 0.25],
        array.array("d", [1.0]),
        np.zeros((2, 2), dtype=np.float64),
        np.zeros((2, 2), dtype=">f4"),
        np.zeros((2, 2, 2), dtype=np.float32),
        np.float32(1.0),
    ]
    for payload in refused:
        with pytest.raises(TypeError, match="a payload is") as refusal:
            channel.call("echo", payload, timeout=TIMEOUT)  # type: ignore[arg-type]
        is_array = isinstance(payload, (np.ndarray, np.generic))
        assert not is_array or re.search("use (astype|reshape)$", str(refusal.value))
    with pytest.raises(ValueError, match="0 or more"):
        channel.call("echo", b"", timeout=-1.0)
    with pytest.raises(ValueError, match="32511"):
        channel.call(40_000, b"", timeout=TIMEOUT)
    with pytest.raises(slipring.TooLarge) as raised:
        channel.call("echo", bytes(65 << 20), timeout=TIMEOUT)
    assert (raised.value.length, raised.value.limit) == (65 << 20, 64 << 20)
    with pytest.raises(slipring.InvalidPayload):
        channel.call("echo", b"no matrix", timeout=TIMEOUT).array()
    assert channel.in_flight == 0


def test_many_requests_are_in_flight(channel: slipring.Channel) -> None:
    pending = [channel.submit("echo", str(number), timeout=TIMEOUT) for number in range(200)]
    assert len({request.request for request in pending}) == 200
    for number, request in reversed(list(enumerate(pending))):
        assert request.wait().text() == str(number)
    with pytest.raises(slipring.InvalidInput, match="has ended"):
        pending[0].wait()
    later = channel.submit("wait", timeout=TIMEOUT)
    assert later.poll() is None and later.poll(timeout=0.02) is None
    later.cancel()
    with pytest.raises(slipring.Cancelled):
        later.wait()


def test_threads_share_a_channel(channel: slipring.Channel) -> None:
    wrong: list[str] = []

    def call(name: str) -> None:
        for number in range(300):
            text = f"{name} {number}" * (1 + 500 * (number % 7 == 0))
            if channel.call("echo", text, timeout=TIMEOUT).text() != text:
                wrong.append(text)

    threads = [threading.Thread(target=call, args=(str(name),)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and channel.in_flight == 0


def test_a_full_request_ring_lets_other_threads_run(channel: slipring.Channel) -> None:
    busy = channel.submit("wait", timeout=TIMEOUT)
    payload = bytes(1_000_000)
    sent: list[slipring.Pending] = []

    def fill() -> None:
        sent.extend(channel.submit("echo", payload, timeout=TIMEOUT) for _ in range(8))

    filler = threading.Thread(target=fill)
    filler.start()
    filler.join(0.3)
    assert filler.is_alive(), "the ring has 4 MiB"
    busy.cancel()
    filler.join()
    assert [len(pending.wait()) for pending in sent] == [1_000_000] * 8


def test_the_role_reaches_the_worker(spawn: Spawn, tmp_path: Path) -> None:
    channel = spawn(
        role="embed",
        extra={"dim": "384"},
        model="/models/tiny",
        mode="int8",
        blob=b"any\0bytes",
        env={"SLIPRING_TEST": "set"},
        cwd=tmp_path,
        config={"reply_ring": 64 << 10, "max_reply_frame": 16 << 10, "max_in_flight": 1},
    )

    def told(name: str) -> str:
        return channel.call("extra", name, timeout=TIMEOUT).text()

    assert (told("dim"), told("role"), told("env")) == ("384", "'embed'", "set")
    assert (told("model"), told("mode")) == ("/models/tiny", "int8")
    assert (told("blob"), told("cwd")) == (repr(b"any\0bytes"), str(tmp_path))
    assert channel.role == "embed" and channel.is_alive and channel.pid > 0
    assert channel.log_path is not None and channel.log_path.endswith("worker-embed.log")
    pending = channel.submit("wait", timeout=TIMEOUT)
    with pytest.raises(slipring.TooManyInFlight):
        channel.submit(7, timeout=TIMEOUT)
    pending.cancel()


def test_descriptors_reach_the_setup_of_a_worker(spawn: Spawn) -> None:
    reader, writer = os.pipe()
    channel = spawn(fds={"text": reader})
    os.close(reader)
    os.write(writer, b"through a pipe")
    os.close(writer)
    assert channel.call("passed", timeout=TIMEOUT).text() == "b'through a pipe' and no more"
    with pytest.raises(OSError, match="(?i)bad file descriptor"):
        spawn(fds={"text": 1_000_000})
    with pytest.raises(OSError, match="-1 is no descriptor"):
        spawn(fds={"text": -1})
    with pytest.raises(slipring.Error, match="its name must be"):
        spawn(fds={"../x": 0})


def test_an_import_loads_no_asyncio_or_numpy_and_starts_no_thread() -> None:
    code = """
import os, slipring, sys
import slipring.compat
print("numpy" in sys.modules, "asyncio" in sys.modules, len(os.listdir("/proc/self/task")))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["False", "False", "1"]


def test_a_timeout_of_any_length_is_one(channel: slipring.Channel) -> None:
    for timeout in (1e18, 1e300, math.inf):
        assert bytes(channel.call("echo", b"x", timeout=timeout)) == b"x"
