"""What else can load the module."""

from __future__ import annotations

import subprocess
import sys


def test_a_subinterpreter_is_refused_with_the_reason() -> None:
    code = """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
inside = interpreters.create()
script = '''
try:
    import slipring
    print("imported")
except ImportError as error:
    print(error)
'''
failed = interpreters.run_string(inside, script)
if failed is not None:
    print(failed)
import slipring
print("main", slipring.Channel.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.strip().splitlines()
    assert "main interpreter only" in first or "subinterpreters" in first
    assert second == "main Channel"


def test_a_worker_ends_with_its_host(tmp_path: object) -> None:
    """A host that leaves without `close` leaves nothing behind, and nothing hangs at exit."""
    from conftest import WORKER

    code = f"""
import slipring, sys, threading
channel = slipring.Spawner(sys.executable, [{str(WORKER)!r}]).spawn()
def wait():
    channel.call("wait")
threading.Thread(target=wait, daemon=True).start()
pending = channel.submit(7)
stream = channel.stream("count", "5")
print(channel.pid)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
