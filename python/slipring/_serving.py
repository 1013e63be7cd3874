"""How a worker serves requests with tasks of asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from slipring import _slipring
from slipring._errors import Cancelled, Closed, InvalidInput
from slipring._waits import Waits, waits
from slipring._worker import is_async

_STOP_TIMEOUT = 5.0
"""How long a worker that is told to end waits for its tasks."""


def serve(
    setup: Callable[[_slipring.Role], object] | None,
    handlers: Mapping[str | int, Callable[[_slipring.Request], Any]],
    max_taken: int | None,
) -> None:
    """Serve requests until the host ends the worker."""
    with asyncio.Runner() as runner:

        def prepare(role: _slipring.Role) -> None:
            if setup is None:
                return
            made = setup(role)
            if inspect.iscoroutine(made):
                runner.run(made)

        def body(inbox: _slipring.Inbox) -> None:
            runner.run(_Server(inbox, handlers).serve())

        flag = _slipring.AbortFlag()
        _slipring.serve_inbox(prepare, body, list(handlers), max_taken, flag)


class _Server:
    def __init__(
        self,
        inbox: _slipring.Inbox,
        handlers: Mapping[str | int, Callable[[_slipring.Request], Any]],
    ) -> None:
        self.inbox = inbox
        self.handlers = handlers
        self.tasks: set[asyncio.Task[None]] = set()
        # Handlers that are not async run one at a time, on one thread, beside the event loop.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="slipring-handler")

    async def serve(self) -> None:
        """Serve requests until the host ends the worker, or a handler does."""
        loop = asyncio.get_running_loop()
        here = waits()
        self.end: asyncio.Future[None] = loop.create_future()
        feed = self.inbox.feed(here.completions)

        def take() -> None:
            try:
                for incoming in feed.take():
                    task = loop.create_task(self.answer(here, incoming))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
            except Closed:
                self.stop(None)
            except Exception as error:
                self.stop(error)

        here.callbacks[feed.token] = take
        # What came before the line above.
        take()
        try:
            await self.end
        except BaseException:
            for task in self.tasks:
                task.cancel()
            raise
        finally:
            # At the end of the worker all of them are cancelled.
            left = set(self.tasks)
            if left:
                _, left = await asyncio.wait(left, timeout=_STOP_TIMEOUT)
            for task in left:
                task.cancel()
            self.thread.shutdown(wait=False, cancel_futures=True)

    def stop(self, why: BaseException | None) -> None:
        if self.end.done():
            return
        if why is None:
            self.end.set_result(None)
        else:
            self.end.set_exception(why)

    async def answer(self, here: Waits, incoming: _slipring.Incoming) -> None:
        """Serve one request."""
        request = incoming.request
        try:
            function = self.handlers[request.kind]
            incoming.begin()
            if is_async(function):
                with _CancelledWith(here, incoming):
                    await _answer(here, incoming, function(request))
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.thread, _answer_here, incoming, function)
        except asyncio.CancelledError:
            # Of the request, or by the handler itself.
            fail(incoming, Cancelled("the handler was cancelled", kind="cancelled"))
        except Exception as error:
            fail(incoming, error)
        except BaseException as error:
            # `SystemExit` and `KeyboardInterrupt` end the worker.
            fail(incoming, error)
            self.stop(error)


def _answer_here(incoming: _slipring.Incoming, function: Any) -> None:
    """Serve one request on this thread."""
    try:
        answer(incoming, function)
    except StopIteration as error:
        # No future of asyncio takes it: what waits would wait for ever.
        raise RuntimeError("the handler raised StopIteration") from error


class _CancelledWith:
    """Cancels the task in whose `with` block it is, once, if the request is cancelled."""

    def __init__(self, here: Waits, incoming: _slipring.Incoming) -> None:
        self._callbacks = here.callbacks
        self._task = asyncio.current_task()
        self._watch = incoming.start_watch(here.completions)
        self._is_cancelled = False

    def _look(self) -> None:
        if self._watch.poll() and not self._is_cancelled and self._task is not None:
            self._is_cancelled = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._callbacks[self._watch.token] = self._look
        # It may be cancelled already.
        self._look()

    def __exit__(self, *_: object) -> None:
        del self._callbacks[self._watch.token]
        self._watch.drop()


def fail(incoming: _slipring.Incoming, error: BaseException) -> None:
    """End a request with an error, if it has no answer yet."""
    if incoming.is_open:
        incoming.fail(error)


async def _answer(here: Waits, incoming: _slipring.Incoming, made: Any) -> None:
    if inspect.isasyncgen(made):
        chunk: Any
        async with aclosing(made):
            _check_stream(incoming)
            async for chunk in made:
                await _wait(here, incoming.start_send_chunk(here.completions, chunk))
        incoming.end()
        return
    reply = await made
    if incoming.request.is_stream:
        await _wait(here, incoming.start_send_chunk(here.completions, reply))
        incoming.end()
    else:
        await _wait(here, incoming.start_send(here.completions, reply))


async def _wait(here: Waits, operation: _slipring.Operation | None) -> None:
    if operation is None:
        await here.done(None)
    else:
        await here.result(operation)


def answer(incoming: _slipring.Incoming, function: Callable[[_slipring.Request], Any]) -> None:
    """Serve one request with a function that is not async, and may return an iterator."""
    made = function(incoming.request)
    if not inspect.isgenerator(made) and not hasattr(made, "__next__"):
        incoming.send(made)
        return
    _check_stream(incoming)
    for chunk in made:
        incoming.send_chunk(chunk)
    incoming.end()


def _check_stream(incoming: _slipring.Incoming) -> None:
    if not incoming.request.is_stream:
        raise InvalidInput(
            "the handler returns chunks, and the caller wants one reply: it has to call `stream`",
            kind="invalid_input",
        )
