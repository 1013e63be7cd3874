"""Streams: chunks of generators."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import slipring

TIMEOUT = 30.0


def test_chunks_come_in_order_and_end(channel: slipring.Channel) -> None:
    stream = channel.stream("count", "1000")
    assert [chunk.text() for chunk in stream] == [str(number) for number in range(1000)]
    assert list(stream) == []
    assert [chunk.text() for chunk in channel.stream(7)] == ["kind 7"], "one value is one chunk"


def test_chunks_are_arrays_that_can_be_kept(channel: slipring.Channel) -> None:
    chunks = [chunk.array() for chunk in channel.stream("matrices", "300")]
    assert all(np.all(chunk == number) for number, chunk in enumerate(chunks))
    replies = list(channel.stream("matrices", "300"))
    assert all(np.all(reply.array() == number) for number, reply in enumerate(replies))


def test_a_stalled_stream_is_an_error_and_the_channel_goes_on(channel: slipring.Channel) -> None:
    stream = channel.stream("stall", chunk_timeout=0.1, first_chunk_timeout=TIMEOUT)
    assert next(stream).text() == "one"
    with pytest.raises(slipring.Stalled):
        next(stream)
    assert list(stream) == []
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"


def test_a_thread_waits_with_the_timeouts_of_the_stream(channel: slipring.Channel) -> None:
    raised: list[BaseException] = []

    def read() -> None:
        try:
            list(channel.stream("stall", chunk_timeout=0.1))
        except slipring.Error as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(TIMEOUT)
    assert isinstance(raised[0], slipring.Stalled)


def test_a_stream_is_cancelled_by_another_thread(channel: slipring.Channel) -> None:
    stream = channel.stream("stall")
    assert next(stream).text() == "one"
    timer = threading.Timer(0.1, stream.cancel)
    timer.start()
    with pytest.raises(slipring.Cancelled):
        next(stream)
    timer.join()


def test_a_stream_that_is_left_ends_its_handler(channel: slipring.Channel) -> None:
    with channel.stream("stall") as stream:
        next(stream)
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"
    del stream
    begun = time.monotonic()
    next(channel.stream("stall"))
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"
    assert time.monotonic() - begun < 10


def test_an_exception_after_some_chunks_comes_behind_them(channel: slipring.Channel) -> None:
    stream = channel.stream("count", "no number")
    with pytest.raises(slipring.HandlerFailed, match="ValueError"):
        next(stream)
