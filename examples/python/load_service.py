"""Sends requests to `serve.py` from many threads, and kills its workers meanwhile, if told to.

    python examples/python/serve.py &
    python examples/python/load_service.py --seconds 20 --kill-every 2
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

GLOSSES = Path(__file__).parent.parent / "glosses.txt"
TIMEOUT = 120.0


def ask(url: str, body: object | None = None) -> Any:
    """Return the answer to a request, or raise an `OSError`."""
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=TIMEOUT) as answer:
        return json.load(answer)


def main() -> int:
    parser = argparse.ArgumentParser(description="Sends requests to serve.py.")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--texts", type=int, default=1, help="how many texts a request has")
    parser.add_argument("--kill-every", type=float, help="kills a worker every so many seconds")
    options = parser.parse_args()
    glosses = GLOSSES.read_text(encoding="utf-8").splitlines()
    times: list[float] = []
    failures: list[OSError] = []
    start = time.monotonic()
    end = start + options.seconds

    def load(thread: int) -> None:
        first = thread * 97
        while (begun := time.monotonic()) < end:
            texts = [glosses[(first + one) % len(glosses)] for one in range(options.texts)]
            first += options.texts
            body = {"input": texts, "encoding_format": "base64"}
            try:
                answer = ask(f"{options.url}/v1/embeddings", body)
                assert len(answer["data"]) == options.texts
                times.append(time.monotonic() - begun)
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=load, args=(thread,)) for thread in range(options.threads)]
    for thread in threads:
        thread.start()
    kills = 0
    while options.kill_every and time.monotonic() + options.kill_every < end:
        time.sleep(options.kill_every)
        workers = ask(f"{options.url}/health")["workers"]
        pids = [one["pid"] for one in workers if one["is_alive"]]
        if pids:
            os.kill(pids[kills % len(pids)], signal.SIGKILL)
            kills += 1
    for thread in threads:
        thread.join()
    rate = len(times) / (time.monotonic() - start)

    times.sort()
    print(f"{len(times)} requests answered, {rate:.1f} a second, {kills} kills")
    if times:
        median, slow = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"median {median * 1000:.0f} ms, 99 % {slow * 1000:.0f} ms, longest {times[-1]:.2f} s")
    print(f"{len(failures)} requests failed", *failures[:3])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
