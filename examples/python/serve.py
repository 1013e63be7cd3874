"""Serves embeddings over HTTP, in the shape of OpenAI's `/v1/embeddings`.

    python examples/python/serve.py --port 8080
    curl -s localhost:8080/v1/embeddings -d '{"model": "minilm", "input": "a small dog"}'

| | |
|---|---|
| `POST /v1/embeddings` | `input`: a text or a list; `encoding_format`: `float` or `base64` |
| `GET /v1/models` | the one model that there is |
| `GET /` | a page with the workers and what they do |
| `GET /health` | the same for programs: 200 if a worker is ready, else 503 |
| `GET /metrics` | the pool's metrics, for Prometheus |

The model runs in a pool of worker processes. A worker puts the texts of all requests that it finds
into one batch. If it crashes or is killed, its requests are sent to another one. `--model` chooses the
model: see `embedding_models.py`, which also says what to install.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import math
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import embedding_models
import numpy as np
import slipring
from embedding_models import Model, Vectors

# A worker computes so many texts at a time. The host divides longer lists, so that a long one does not
# keep short ones waiting.
BATCH = 32
# How many requests a worker takes at a time, and how long it waits for more once it has one, in seconds.
MAX_TAKEN = 64
GATHER = 0.003
MAX_INPUTS = 2048
MAX_BODY = 16 * 1024 * 1024
# How long a connection may lie idle, and how long the end of the service waits for its requests.
IDLE_TIMEOUT = 60.0
END_TIMEOUT = 10.0

# The worker.

Batch: TypeAlias = list[tuple[slipring.Incoming, list[str]]]
"""Requests and their texts, which the model computes together."""

worker = slipring.Worker()
model: Model


@worker.setup
def load_model(role: slipring.Role) -> None:
    global model
    model = embedding_models.load(role.mode or "auto")


@worker.inbox("embed")
def serve_requests(inbox: slipring.Inbox) -> None:
    while True:
        for batch in batches_of(inbox.take_many(MAX_TAKEN, within=GATHER)):
            embed(batch)


def batches_of(requests: list[slipring.Incoming]) -> list[Batch]:
    """Put the texts of several requests into each batch: those of the same length, as the model pads
    the texts of a batch to the longest."""
    readable: Batch = []
    for incoming in requests:
        try:
            readable.append((incoming, incoming.request.texts()))
        except slipring.InvalidPayload as error:
            incoming.fail(error)
    readable.sort(key=lambda one: max(map(len, one[1]), default=0))
    batches: list[Batch] = []
    room = 0
    for incoming, texts in readable:
        room -= len(texts)
        if room < 0 or not batches:
            batches.append([])
            room = BATCH - len(texts)
        batches[-1].append((incoming, texts))
    return batches


def embed(batch: Batch) -> None:
    """Answer requests, with a row for each text: its vector, and of how many tokens it is."""
    texts: list[str] = []
    for incoming, own in batch:
        # If this process dies from here on, the request may have been the reason.
        incoming.begin()
        texts += own
    try:
        vectors, tokens = model.encode(texts)
    except Exception as error:
        for incoming, _ in batch:
            incoming.fail(error)
        return
    rows = np.column_stack([vectors, np.array(tokens, np.float32)])
    first = 0
    for incoming, own in batch:
        try:
            incoming.send(rows[first : first + len(own)])
        except slipring.Cancelled:
            pass  # Its time is up.
        first += len(own)


# The host.


class Refusal(Exception):
    """An answer that is not 200, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


def invalid(message: str, param: str | None = None, status: int = 400) -> Refusal:
    return Refusal(status, "invalid_request_error", message, param=param)


def refusal_of(error: slipring.Error) -> Refusal:
    """Return what a client is told about a request that has failed."""
    if isinstance(error, slipring.Degraded):
        message = "The model cannot be started at the moment."
        return Refusal(503, "server_error", message, retry_after=error.retry_after)
    if isinstance(error, slipring.Overloaded):
        message = f"{error.queued} requests wait already. Please try again later."
        return Refusal(
            429, "requests", message, code="rate_limit_exceeded", retry_after=error.retry_after
        )
    if isinstance(error, slipring.TimeoutError):
        return Refusal(504, "server_error", "The model took too long.", code="timeout")
    if isinstance(error, slipring.Closed):
        return Refusal(503, "server_error", "The service is about to end.", retry_after=1.0)
    return Refusal(500, "server_error", f"The model has failed: {error}")


class Service:
    """The pool, and the requests that are answered at the moment."""

    def __init__(self, options: argparse.Namespace, model_name: str) -> None:
        self.model_name = embedding_models.published_name(model_name)
        self.started = int(time.time())
        self._timeout: float = options.timeout
        self._changed = threading.Condition()
        self._in_flight = 0
        spawner = slipring.Spawner(
            sys.executable, [__file__], mode=model_name, log_dir=options.log_dir
        )
        role = slipring.PoolRole(
            spawner,
            min_idle=options.workers,
            max_size=options.workers,
            concurrency=options.concurrency,
            max_waiting=options.max_waiting,
            # An embedding may be computed twice. Whatever was begun is sent again, and often enough.
            idempotent=["embed"],
            max_attempts=10,
            retry_budget=(100, 10 * options.concurrency, 10.0),
            # A worker that is killed while it has no request counts as one that fails.
            backoff=(0.1, 2.0, 60.0),
            max_failures=(20, 60.0),
            hang_timeout=60.0,
            kinds=["embed"],
        )
        self.pool = slipring.Pool({"embed": role})
        self._role = self.pool.role("embed")

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Return the vectors of texts, and of how many tokens all of them are."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        parts = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
        pending = [
            self._role.submit("embed", [texts[number] for number in part], timeout=self._timeout)
            for part in parts
        ]
        by_length = np.concatenate([one.wait().array() for one in pending])
        rows = np.empty_like(by_length)
        rows[order] = by_length
        return rows[:, :-1], int(rows[:, -1].sum())

    def health(self) -> dict[str, Any]:
        role = self.pool.health().roles["embed"]
        workers = [
            {
                "index": one.index,
                "pid": one.pid,
                "is_alive": one.is_alive,
                "state": one.health.state if one.health else None,
                "requests_served": one.health.requests_served if one.health else 0,
                "busy_for": one.health.busy_for if one.health else None,
            }
            for one in role.workers
        ]
        return {
            "model": self.model_name,
            # A pool is ready when requests will be served; here a worker must have its model.
            "is_ready": any(one["state"] in ("idle", "busy") for one in workers),
            "is_degraded": role.is_degraded,
            "queued": role.load.queued,
            "max_waiting": role.load.limit,
            "in_flight": role.load.in_flight,
            "oldest_wait": role.load.oldest_wait,
            "workers": workers,
        }

    def page(self) -> str:
        """Return the page of `GET /`, which loads itself again each second."""
        health = self.health()
        metrics = self.pool.metrics()["embed"]
        ended = {end: count for (_, end), count in metrics.requests.items()}
        times = [metrics.service_times.quantile(share) for share in (0.5, 0.99)]
        figures = {
            "ready": health["is_ready"],
            "requests that wait": f"{health['queued']} of at most {health['max_waiting']}",
            "requests with workers": health["in_flight"],
            "oldest wait": f"{health['oldest_wait']:.3f} s",
            "answered": ended.pop("ok", 0),
            "failed": ", ".join(f"{count} {end}" for end, count in ended.items()) or "none",
            "sent again": metrics.resent_unbegun + metrics.resent_begun,
            "time with a worker, median and 99 %": ", ".join(
                "none yet" if time is None else f"{time * 1000:.1f} ms" for time in times
            ),
        }
        columns = ("index", "pid", "is_alive", "state", "requests_served", "busy_for")
        return "".join(
            (
                '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1">',
                f"<title>{html.escape(self.model_name)}</title>",
                f"<h1>Embeddings of {html.escape(self.model_name)}</h1><table>",
                *(_table_row((name, figure)) for name, figure in figures.items()),
                "</table><h2>Workers</h2><table>",
                _table_row(columns),
                *(_table_row([one[column] for column in columns]) for one in health["workers"]),
                "</table>",
            )
        )

    def begin_request(self) -> None:
        with self._changed:
            self._in_flight += 1

    def end_request(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Answer what is in flight, and end the workers."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0, END_TIMEOUT)
        self.pool.close(timeout=END_TIMEOUT)


def _table_row(cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


def texts_of(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request, or raise a `Refusal`."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise invalid("'input' must be a string or a list of strings.", "input")
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise invalid(f"'input' must have 1 to {MAX_INPUTS} strings: it has {len(texts)}.", "input")
    if not all(texts):
        raise invalid("'input' must not have an empty string.", "input")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise invalid("'input' has half of a surrogate pair.", "input") from None
    return texts


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, on a thread of its own."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        service = self.server.service
        service.begin_request()
        try:
            try:
                self._route(service)
            except slipring.Error as error:
                raise refusal_of(error) from error
        except Refusal as refusal:
            self._send_json(refusal.status, refusal.body, refusal.retry_after)
        finally:
            service.end_request()

    def _route(self, service: Service) -> None:
        # The body is read in any case: the next request comes after it.
        content = self._read_body()
        path = self.path.partition("?")[0]
        routes = {
            ("POST", "/v1/embeddings"): lambda: self._embeddings(service, content),
            ("GET", "/v1/models"): lambda: self._send_json(200, _models(service)),
            ("GET", "/"): lambda: self._send(200, "text/html; charset=utf-8", service.page().encode()),
            ("GET", "/health"): lambda: self._health(service),
            ("GET", "/metrics"): lambda: self._send(
                200, "text/plain; version=0.0.4; charset=utf-8", service.pool.prometheus().encode()
            ),
        }
        if (route := routes.get((self.command, path))) is not None:
            route()
        elif path in {path for _, path in routes}:
            raise invalid(f"Not allowed to {self.command} on {path}.", status=405)
        else:
            raise invalid(f"Unknown request URL: {self.command} {path}.", status=404)

    def _embeddings(self, service: Service, content: bytes) -> None:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise invalid(f"The body is not JSON: {error}.") from None
        if not isinstance(body, dict):
            raise invalid("The body must be an object of JSON.")
        name = body.get("model", service.model_name)
        if name != service.model_name:
            message = f"The model {name!r} does not exist: there is {service.model_name!r}."
            raise Refusal(
                404, "invalid_request_error", message, param="model", code="model_not_found"
            )
        encoding = body.get("encoding_format", "float")
        if encoding not in ("float", "base64"):
            raise invalid("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
        if body.get("dimensions") is not None:
            raise invalid("This model does not support 'dimensions'.", "dimensions")
        vectors, tokens = service.embed(texts_of(body))
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector.tolist() if encoding == "float" else _base64(vector),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self._send_json(200, {"object": "list", "data": data, "model": name, "usage": usage})

    def _health(self, service: Service) -> None:
        health = service.health()
        self._send_json(200 if health["is_ready"] else 503, health)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        # What is left of a body that is not read would be taken for the next request.
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise invalid("The length of the body must be given.", status=411)
        if int(length) > MAX_BODY:
            self.close_connection = True
            raise invalid(f"The body has more than {MAX_BODY} bytes.", status=413)
        return self.rfile.read(int(length))

    def _send_json(self, status: int, body: object, retry_after: float | None = None) -> None:
        headers = {}
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        self._send(status, "application/json", json.dumps(body).encode(), headers)

    def _send(
        self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log no requests: the metrics count them."""


def _models(service: Service) -> dict[str, object]:
    entry = {
        "id": service.model_name,
        "object": "model",
        "created": service.started,
        "owned_by": "slipring",
    }
    return {"object": "list", "data": [entry]}


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


class Server(ThreadingHTTPServer):
    """Takes connections."""

    daemon_threads = True
    # How many connections wait until they are taken.
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        self.service = service
        super().__init__(address, Handler)

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any
    ) -> None:
        # A client that has left needs no traceback.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serves embeddings over HTTP.")
    parser.add_argument("--model", choices=embedding_models.NAMES, default="auto")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes one that is free")
    parser.add_argument("--workers", type=int, default=2, help="how many processes run the model")
    parser.add_argument(
        "--concurrency", type=int, default=64, help="how many requests a worker has at a time"
    )
    parser.add_argument("--max-waiting", type=int, default=1024, help="more are refused with 429")
    parser.add_argument("--timeout", type=float, default=60.0, help="of a request, in seconds")
    parser.add_argument("--log-dir", help="where the workers write their logs")
    options = parser.parse_args()
    try:
        name = embedding_models.find(options.model)
    except embedding_models.Missing as error:
        print(error, file=sys.stderr)
        return 2

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    service = Service(options, name)
    with Server((options.host, options.port), service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"listening on http://{options.host}:{server.server_port}", flush=True)
        stop.wait()
        server.shutdown()
        service.close()
    return 0


if __name__ == "__main__":
    if slipring.is_worker():
        worker.run()
    else:
        sys.exit(main())
