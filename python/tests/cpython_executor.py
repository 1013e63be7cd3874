"""Runs CPython's own tests of process pools with the executor of this package, as a program.

The tests are those that are installed with the interpreter. Prints a line of JSON: how each has ended.
"""

from __future__ import annotations

import concurrent.futures.process
import gc
import importlib
import json
import re
import sys
import unittest
from typing import Any

import slipring

# Before the tests look it up. A class of that name is the one that scripts of the tests import.
concurrent.futures.ProcessPoolExecutor = slipring.ProcessPoolExecutor  # type: ignore[assignment,misc]
concurrent.futures.process.ProcessPoolExecutor = slipring.ProcessPoolExecutor  # type: ignore[assignment,misc]

# A test that waits for what never comes is over sooner.
support: Any = importlib.import_module("test.support")
support.SHORT_TIMEOUT = 10.0

NAME = "test.test_concurrent_futures"
PARTS = ["process_pool", "init", "shutdown", "deadlock", "wait", "as_completed"]


def modules() -> list[Any]:
    """Return the modules with the tests: one in Python 3.11, several from 3.12 on."""
    package = importlib.import_module(NAME)
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"{NAME}.test_{part}") for part in PARTS]


def with_this_package(run: Any) -> Any:
    """Have the scripts that tests run import the executor from this package."""

    def run_script(*args: str, **options: Any) -> Any:
        name = "import ProcessPoolExecutor"
        changed = [
            arg.replace(f"from concurrent.futures {name}", f"from slipring {name}") for arg in args
        ]
        return run(*changed, **options)

    return run_script


class Result(unittest.TestResult):
    """Keeps how each test has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        print(test.id(), file=sys.stderr, flush=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        # An executor that a test has left with its exception.
        gc.collect()

    def _note(self, test: unittest.TestCase, end: str) -> None:
        self.ends.setdefault(".".join(test.id().split(".")[-2:]), end)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, f"skipped: {reason}")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, f"failed: {self._exc_info_to_string(err, test)}")  # type: ignore[attr-defined]

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.addError(test, err)


def main(method: str) -> None:
    suite = unittest.TestSuite()
    for module in modules():
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = with_this_package(module.assert_python_ok)
        for name, case in vars(module).items():
            # `Fork` is not `Forkserver`.
            if isinstance(case, type) and re.match(f"ProcessPool{method}[^a-z]", name):
                if issubclass(case, unittest.TestCase):
                    suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    result = Result()
    suite.run(result)
    print(json.dumps(result.ends))


if __name__ == "__main__":
    main(sys.argv[1])
