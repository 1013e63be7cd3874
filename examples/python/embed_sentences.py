"""Embeds sentences in a worker process, and finds those that are nearest to a query.

    python examples/python/embed_sentences.py --check --query "a small dog"

The sentences are the glosses of WordNet in `examples/glosses.txt`. `--model` chooses the model: see
`embedding_models.py`, which also says what to install.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import embedding_models
import numpy as np
import slipring
from embedding_models import Model, Vectors

GLOSSES = Path(__file__).parent.parent / "glosses.txt"
QUERIES = ("a small dog", "the art of cooking", "to move fast")
NEAREST = 3
# So many batches are with the worker at the same time, so that it need not wait for the next.
IN_FLIGHT = 4
TIMEOUT = 600.0

Batch: TypeAlias = list[int]
"""The numbers of the sentences of a batch."""

# The worker.

worker = slipring.Worker()
model: Model
model_time = 0.0


@worker.setup
def load_model(role: slipring.Role) -> None:
    global model
    model = embedding_models.load(role.mode or "auto")


@worker.handler("embed")
def embed(request: slipring.Request) -> Vectors:
    global model_time
    texts = request.texts()
    begun = time.perf_counter()
    vectors, _tokens = model.encode(texts)
    model_time += time.perf_counter() - begun
    return vectors


@worker.handler("model time")
def tell_model_time(_request: slipring.Request) -> str:
    """Return for how many seconds the model has computed so far."""
    return str(model_time)


# The host.


def batches_of(texts: Sequence[str], size: int) -> list[Batch]:
    """Put texts of the same length together: the model pads those of a batch to the longest."""
    order = sorted(range(len(texts)), key=lambda number: (len(texts[number]), number))
    return [order[first : first + size] for first in range(0, len(order), size)]


def embed_all(channel: slipring.Channel, texts: Sequence[str], batches: list[Batch]) -> Vectors:
    """Return the vectors of all texts, in their order."""
    rows: list[Vectors] = [np.empty((1, 0), np.float32)] * len(texts)
    in_flight: deque[tuple[Batch, slipring.Pending]] = deque()

    def keep_oldest() -> None:
        batch, pending = in_flight.popleft()
        for number, row in zip(batch, pending.wait().array(), strict=True):
            rows[number] = row

    for batch in batches:
        pending = channel.submit("embed", [texts[number] for number in batch], timeout=TIMEOUT)
        in_flight.append((batch, pending))
        if len(in_flight) == IN_FLIGHT:
            keep_oldest()
    while in_flight:
        keep_oldest()
    return np.stack(rows)


def count_equal(here: Model, texts: Sequence[str], vectors: Vectors, batches: list[Batch]) -> int:
    """Return how many vectors have the bits that the model `here` makes of the same batches."""
    count = 0
    for batch in batches:
        expected, _tokens = here.encode([texts[number] for number in batch])
        for number, row in zip(batch, expected, strict=True):
            count += vectors[number].tobytes() == row.tobytes()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description="Embeds sentences in a worker process.")
    parser.add_argument("--model", choices=embedding_models.NAMES, default="auto")
    parser.add_argument("--glosses", type=Path, default=GLOSSES, help="a file with one on each line")
    parser.add_argument("--limit", type=int, default=5000, help="how many glosses to embed")
    parser.add_argument("--batch", type=int, default=32, help="how many make a batch")
    parser.add_argument("--query", action="append", help="finds the glosses that are nearest to it")
    parser.add_argument(
        "--check", action="store_true", help="compare with the vectors that this process computes"
    )
    options = parser.parse_args()
    if options.limit < 1 or options.batch < 1:
        parser.error("--limit and --batch must be 1 or more")
    try:
        name = embedding_models.find(options.model)
    except embedding_models.Missing as error:
        print(error, file=sys.stderr)
        return 2
    texts = options.glosses.read_text(encoding="utf-8").splitlines()[: options.limit]
    batches = batches_of(texts, options.batch)

    spawner = slipring.Spawner(sys.executable, [__file__], role="embed", mode=name)
    with spawner.spawn() as channel:
        channel.wait_ready(timeout=TIMEOUT)
        begun = time.perf_counter()
        vectors = embed_all(channel, texts, batches)
        took = time.perf_counter() - begun
        in_model = float(channel.call("model time", timeout=TIMEOUT).text())
        print(f"{len(texts)} glosses in {took:.2f} s with the model {name}, in {len(batches)} batches")
        print(f"{in_model:.2f} s of that in the model, {1 - in_model / took:.2%} outside of it")
        for query in options.query or QUERIES:
            likeness = vectors @ channel.call("embed", [query], timeout=TIMEOUT).array()[0]
            print(query)
            for number in np.argsort(-likeness)[:NEAREST]:
                print(f"    {likeness[number]:.3f} {texts[number]}")

    if options.check:
        equal = count_equal(embedding_models.load(name), texts, vectors, batches)
        print(f"{equal} of {len(texts)} vectors are bit-equal to those that this process computes")
        if equal != len(texts):
            return 1
    return 0


if __name__ == "__main__":
    if slipring.is_worker():
        worker.run()
    else:
        sys.exit(main())
