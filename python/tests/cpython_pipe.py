"""Runs CPython's own tests of connections with `slipring.Pipe` in the place of their `Pipe`.

    python cpython_pipe.py START_METHOD

Child processes of the tests import this file as well. The last line of the output is the result.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import multiprocessing.context
import os
import sys
import unittest
from typing import Any

import slipring

# The interpreter's own tests, which not every distribution of CPython installs.
cpython: Any = importlib.import_module("test._test_multiprocessing")

# All the classes that make pipes or use what `Pipe` returns.
CLASSES = (
    "WithProcessesTestProcess",
    "WithProcessesTestSubclassingProcess",
    "WithProcessesTestBarrier",
    "WithProcessesTestConnection",
    "WithProcessesTestListener",
    "WithProcessesTestListenerClient",
    "WithProcessesTestPoll",
    "WithProcessesTestPicklingConnections",
    "WithProcessesTestFinalize",
    "WithProcessesTestLogging",
    "WithProcessesTestPollEintr",
    "TestWait",
    "TestFlags",
    "TestTimeouts",
    "TestForkAwareThreadLock",
    "TestCloseFds",
    "TestIgnoreEINTR",
    "TestStartMethod",
)

# Of the classes that test more than connections, what makes pipes.
ONLY = {
    "WithProcessesTestProcess": (
        "test_process",
        "test_lose_target_ref",
        "test_sentinel",
        "test_args_argument",
    ),
    "WithProcessesTestBarrier": ("test_thousand", "test_abort", "test_barrier"),
    "TestStartMethod": ("test_context", "test_nested_startmethod"),
}

SKIPPED = {
    "WithProcessesTestConnection.test_fd_transfer",
    "WithProcessesTestConnection.test_large_fd_transfer",
    "WithProcessesTestConnection.test_missing_fd_transfer",
}
WHY = "it sends a descriptor over fileno() itself, which wakes readers and carries no data"

METHOD = os.environ.setdefault("SLIPRING_TEST_START_METHOD", sys.argv[-1])


made = 0


def make(duplex: bool = True) -> tuple[slipring.Connection, slipring.Connection]:
    """Stand in for `multiprocessing.Pipe`, and count the pipes."""
    global made
    made += 1
    return slipring.Pipe(duplex)


patched: Any = multiprocessing
patched.context.BaseContext.Pipe = lambda self, duplex=True: make(duplex)
patched.Pipe = make
# Tests take it from their class, which took it from the default context.
cpython.ProcessesMixin.Pipe = staticmethod(make)
cpython.install_tests_in_module_dict(globals(), METHOD)


def suite() -> unittest.TestSuite:
    """Return the tests."""
    chosen = unittest.TestSuite()
    for name in CLASSES:
        kind = globals()[name]
        for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
            assert isinstance(case, unittest.TestCase)
            method = case.id().rsplit(".", 1)[1]
            if method not in ONLY.get(name, (method,)):
                continue
            if f"{name}.{method}" in SKIPPED:
                setattr(kind, method, unittest.skip(WHY)(getattr(kind, method)))
            chosen.addTest(case)
    return chosen


if __name__ == "__main__":
    globals()["setUpModule"]()
    result = unittest.TextTestRunner(verbosity=2).run(suite())
    globals()["tearDownModule"]()
    failed = [(case.id(), trace) for case, trace in result.failures + result.errors]
    skipped = [(case.id(), reason) for case, reason in result.skipped]
    print(json.dumps({"ran": result.testsRun, "failed": failed, "skipped": skipped, "pipes": made}))
