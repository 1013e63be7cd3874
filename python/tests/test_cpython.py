"""CPython's own tests of process pools, with the executor of this package."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("cpython_executor.py")
TESTS = "test.test_concurrent_futures"

# What differs, and why. `docs/PYTHON.md` has the same.
WANTS_A_BROKEN_POOL = "the executor goes on after a crash or a failed initializer"
LOOKS_INSIDE = "the test looks at private attributes of the original"
DIFFERENT = {
    "test_killed_child": WANTS_A_BROKEN_POOL,
    "test_initializer": WANTS_A_BROKEN_POOL,
    "test_error_at_task_unpickle": WANTS_A_BROKEN_POOL,
    "test_exit_at_task_unpickle": WANTS_A_BROKEN_POOL,
    "test_error_during_result_unpickle_in_result_handler": WANTS_A_BROKEN_POOL,
    "test_exit_during_result_unpickle_in_result_handler": WANTS_A_BROKEN_POOL,
    "test_saturation": LOOKS_INSIDE,
    "test_processes_terminate": LOOKS_INSIDE,
    "test_del_shutdown": LOOKS_INSIDE,
    "test_shutdown_no_wait": LOOKS_INSIDE,
    "test_python_finalization_error": LOOKS_INSIDE,
}
# Processes are never forked, whatever the context says.
DIFFERENT_IF_FORKED = {
    "test_max_tasks_per_child": "there is nothing to refuse",
}


@pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec(TESTS) is None,
    reason=f"{TESTS} is not installed with this interpreter",
)
@pytest.mark.parametrize("method", ["Spawn", "Forkserver", "Fork"])
def test_the_tests_of_process_pools_pass_but_for_what_differs(method: str, tmp_path: Path) -> None:
    command = [sys.executable, str(RUNNER), method]
    with open(tmp_path / "stderr", "w+") as stderr:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=600)
        stderr.seek(0)
        assert ran.returncode == 0, stderr.read()[-4000:]
    ends: dict[str, str] = json.loads(ran.stdout[ran.stdout.index('{"') :])
    different = {**DIFFERENT, **(DIFFERENT_IF_FORKED if method == "Fork" else {})}
    failed = {name: end for name, end in ends.items() if end.startswith("failed")}
    news = [f"{name}: {end}" for name, end in failed.items() if not _is_in(name, different)]
    assert not news, "\n".join(news)
    passed = [name for name, end in ends.items() if end == "ok"]
    assert len(passed) >= 45
    # What does not differ any more is to be taken from the list.
    assert not [name for name in passed if _is_in(name, different)]


def _is_in(name: str, different: dict[str, str]) -> bool:
    case, test = name.split(".")
    # Of the tests of initializers those differ whose initializer fails.
    return test in different and (test != "test_initializer" or "Failing" in case)
