"""A worker that serves requests in batches."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time

import slipring

worker = slipring.Worker(max_taken=100)
kept: list[slipring.Incoming] = []
mode = ""


@worker.setup
def load(role: slipring.Role) -> None:
    global mode
    mode = role.mode or ""


def answer(batch: list[slipring.Incoming]) -> None:
    for incoming in reversed(batch):
        if incoming.request.kind == "batch":
            incoming.send(f"{len(batch)} {incoming.request.text()}")
        elif incoming.request.kind == "forget":
            batch.remove(incoming)
            del incoming
            gc.collect()
        elif incoming.request.kind == "fail":
            incoming.fail(LookupError("no such number"))
        elif incoming.request.kind == "wait":
            kept.append(incoming)
        elif incoming.request.kind == "twice":
            incoming.send("first")
            try:
                incoming.send("second")
            except slipring.InvalidInput as error:
                print("refused:", error)
        elif incoming.request.kind == "chunks":
            try:
                for number in range(int(incoming.request.text())):
                    incoming.send_chunk(str(number))
                incoming.end()
            except slipring.InvalidInput as error:
                incoming.fail(error)
        elif incoming.request.kind == "odd":
            try:
                incoming.send(incoming)  # type: ignore[arg-type]
            except TypeError:
                incoming.send(f"still open: {incoming.is_open}")
        elif incoming.request.kind == "raise":
            raise LookupError("the loop is broken")


def look() -> None:
    """End requests that are cancelled, on a thread of its own."""
    while True:
        for incoming in [incoming for incoming in kept if incoming.request.cancelled]:
            kept.remove(incoming)
            try:
                incoming.request.check_cancelled()
            except slipring.Cancelled as error:
                incoming.fail(error)
        time.sleep(0.001)


@worker.inbox("batch", "forget", "fail", "wait", "twice", "chunks", "odd", "raise", 7)
def serve(inbox: slipring.Inbox) -> None:
    threading.Thread(target=look, daemon=True).start()
    if mode == "one":
        for incoming in inbox:
            incoming.begin()
            answer([incoming])
        print("the iterator has ended")
        return
    if mode == "timeout":
        while (taken := inbox.take(timeout=0.05)) is None:
            print("none yet")
        answer([taken])
        sys.exit(3)
    if mode == "signal":

        def take(*_: object) -> None:
            if (taken := inbox.take(timeout=60)) is not None:
                taken.send("of the handler")

        signal.signal(signal.SIGUSR1, take)
        print("ready for signals")
        for incoming in inbox:
            incoming.send("of the loop")
        return
    while True:
        batch = inbox.take_many(32, within=0.1)
        if mode == "threads":
            threading.Thread(target=answer, args=(batch,)).start()
        else:
            answer(batch)


if __name__ == "__main__":
    worker.run()
