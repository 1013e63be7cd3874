"""A worker that tells of the traces of its requests; by tasks if it is told to."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import slipring

worker = slipring.Worker()


def told(request: slipring.Request) -> str:
    return f"{request.traceparent} {len(request)}"


if sys.argv[1:] == ["tasks"]:

    @worker.handler("told")
    async def tell_as_task(request: slipring.Request) -> str:
        return told(request)

    @worker.handler("chunks")
    async def chunks_of_task(request: slipring.Request) -> AsyncIterator[str]:
        yield told(request)

else:

    @worker.handler("told")
    def tell(request: slipring.Request) -> str:
        return told(request)

    @worker.handler("chunks")
    def chunks(request: slipring.Request) -> Iterator[str]:
        yield told(request)


worker.run()
