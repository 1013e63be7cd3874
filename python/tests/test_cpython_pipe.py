"""CPython's own tests of connections, with `slipring.Pipe` in the place of their `Pipe`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

METHODS = ("fork", "spawn", "forkserver")
RUNNER = Path(__file__).with_name("cpython_pipe.py")


def has_tests() -> bool:
    """Return whether this interpreter came with its tests."""
    try:
        return importlib.util.find_spec("test._test_multiprocessing") is not None
    except ModuleNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not has_tests(),
    reason="CPython's tests are not installed: no module test._test_multiprocessing",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start the tests of all start methods side by side: most of their time they sleep."""
    folder = tmp_path_factory.mktemp("cpython")
    running = {
        method: subprocess.Popen(
            [sys.executable, RUNNER, method],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for method in METHODS
    }
    yield running
    for run in running.values():
        run.kill()
        run.communicate()


@pytest.mark.parametrize("method", METHODS)
def test_cpythons_own_tests_of_connections_pass(
    runs: dict[str, subprocess.Popen[str]], method: str
) -> None:
    out, log = runs[method].communicate(timeout=600)
    last = (out.splitlines() or ["{}"])[-1]
    result = json.loads(last) if last.startswith("{") else {}
    assert result, out + log
    assert result["failed"] == [], log
    assert len(result["skipped"]) <= 3, result["skipped"]
    assert result["ran"] >= 45 and result["pipes"] >= 30, result
    for name, reason in result["skipped"]:
        print(f"{name} was skipped: {reason}")
