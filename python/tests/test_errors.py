"""How requests and workers fail, and what the host is told."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slipring
from conftest import told_after_fork
from slipring import _errors

TIMEOUT = 30.0

Spawn = Callable[..., slipring.Channel]


def test_an_exception_crosses_with_its_traceback(channel: slipring.Channel) -> None:
    with pytest.raises(slipring.HandlerFailed) as raised:
        channel.call("fail", "seven", timeout=TIMEOUT)
    failure = raised.value
    assert (failure.type_name, failure.message) == ("LookupError", "no such number")
    assert failure.sources == ["ValueError: invalid literal for int() with base 10: 'seven'"]
    assert 'raise LookupError("no such number") from why' in failure.traceback
    assert "direct cause" in failure.traceback and "worker.py" in failure.traceback
    assert failure.kind == "handler_failed" and failure.was_begun is True
    assert isinstance(failure, slipring.Error) and isinstance(failure, RuntimeError)
    assert bytes(channel.call("echo", b"still", timeout=TIMEOUT)) == b"still"


def test_odd_handlers_and_kinds_fail_alone(channel: slipring.Channel) -> None:
    with pytest.raises(slipring.HandlerFailed, match="a payload is bytes"):
        channel.call("odd", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed, match="UnknownKind"):
        channel.call("no such kind", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed, match="has to call `stream`"):
        channel.call("count", "3", timeout=TIMEOUT)
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"


def test_a_late_reply_is_a_timeout_and_is_dropped(channel: slipring.Channel) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError) as raised:
        channel.call("wait", timeout=0.05)
    assert isinstance(raised.value, slipring.TimeoutError)
    assert 0.04 < time.monotonic() - begun < 10
    assert bytes(channel.call("echo", b"next", timeout=TIMEOUT)) == b"next"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_is_told_with_its_signal_and_log(
    channel: slipring.Channel, number: signal.Signals
) -> None:
    behind: list[BaseException] = []

    def wait(pending: slipring.Pending) -> None:
        try:
            pending.wait()
        except slipring.Error as error:
            behind.append(error)

    with pytest.raises(slipring.PeerDied) as raised:
        # Before the crash, which would otherwise come before the request behind it is sent.
        first = channel.submit("wait", timeout=TIMEOUT)
        crash = channel.submit("crash", str(int(number)), timeout=TIMEOUT)
        queued = channel.submit("echo", b"", timeout=TIMEOUT)
        thread = threading.Thread(target=wait, args=(queued,))
        thread.start()
        first.cancel()
        crash.wait()
    thread.join()
    death = raised.value
    assert death.cause is not None and death.cause.signal == death.signal == number
    assert death.cause.signal_name == number.name and number.name in str(death)
    assert death.log_tail is not None and "about to crash" in death.log_tail
    # `faulthandler` is on.
    assert number == signal.SIGKILL or "in crash" in death.log_tail
    assert death.log_path == channel.log_path
    for error in (death, behind[0]):
        wait_until_settled(error)
    assert (death.role, death.pid, death.was_begun) == ("test", channel.pid, True)
    assert isinstance(behind[0], slipring.PeerDied) and behind[0].was_begun is False
    assert not channel.is_alive
    assert channel.close().signal == number


def test_a_crash_leaves_a_report_if_it_is_asked_for(spawn: Spawn, tmp_path: Path) -> None:
    reports = tmp_path / "crashes"
    channel = spawn(crash_reports=reports)
    with pytest.raises(slipring.PeerDied) as raised:
        channel.call("crash", str(int(signal.SIGKILL)), timeout=TIMEOUT)
    path = path_of_report(raised.value)
    assert [path] == [str(found) for found in reports.iterdir()]
    report = json.loads(Path(path).read_text())
    assert (report["cause"]["signal"], report["worker"]["pid"]) == (signal.SIGKILL, channel.pid)
    assert report["requests"][0]["stage"] == "begun"


def path_of_report(error: BaseException) -> str:
    """Wait until the crash report is written."""
    assert isinstance(error, slipring.Error)
    until = time.monotonic() + 60.0
    while (path := error.crash_report) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert pickle.loads(pickle.dumps(error)).crash_report == path
    return path


def test_errors_without_a_death_have_the_path_of_the_report_too(tmp_path: Path) -> None:
    spawner = slipring.Spawner("/bin/false", crash_reports=tmp_path)
    with pytest.raises(slipring.SpawnFailed) as raised:
        spawner.spawn()
    assert json.loads(Path(path_of_report(raised.value)).read_text())["cause"]["exit_code"] == 1
    # There is none.
    with pytest.raises(slipring.SpawnFailed) as raised:
        slipring.Spawner("/bin/false").spawn()
    assert raised.value.crash_report is None
    assert pickle.loads(pickle.dumps(raised.value)).crash_report is None


def test_a_host_that_ends_with_the_exception_leaves_the_report(tmp_path: Path) -> None:
    host = (
        "import sys, slipring\n"
        "spawner = slipring.Spawner(sys.executable, [sys.argv[1]], role='test')\n"
        "spawner.spawn().call('crash', '9', timeout=60)\n"
    )
    reports = {"SLIPRING_CRASH_REPORTS": str(tmp_path)}
    command = [sys.executable, "-c", host, str(Path(__file__).with_name("worker.py"))]
    ended = subprocess.run(command, env={**os.environ, **reports}, capture_output=True, text=True)
    assert ended.returncode == 1 and "PeerDied" in ended.stderr, ended
    assert len(list(tmp_path.glob("slipring-crash-test-*.json"))) == 1


def wait_until_settled(error: BaseException) -> None:
    """Wait until the last thread of the worker has stopped."""
    assert isinstance(error, slipring.PeerDied)
    end = time.monotonic() + TIMEOUT
    while error.was_begun is None:
        assert time.monotonic() < end, "nothing is known of the request"
        time.sleep(0.001)


class Unsettled:
    """Stands for a death of which the third look knows everything."""

    def __init__(self) -> None:
        self.looks = 0

    def look(self) -> dict[str, object]:
        self.looks += 1
        is_known = self.looks >= 3
        return {
            "was_begun": False if is_known else None,
            "cause": slipring.ExitCause(None, signal.SIGKILL),
            "begun_alone": False if is_known else None,
            "begun_beside": 1 if is_known else None,
            "is_oom_suspected": False,
        }


def test_what_is_not_known_of_a_death_at_once_is_known_later() -> None:
    unsettled = Unsettled()
    details = {"was_begun": None, "pid": 7, "_unsettled": unsettled}
    error = slipring.PeerDied("died", details=details)
    pickled = pickle.loads(pickle.dumps(error))
    assert (pickled.was_begun, pickled.signal) == (None, signal.SIGKILL)
    # Of another class, as the executor makes it.
    crash = slipring.TaskCrashed("died", details={**vars(error), "log_path": None})
    assert (crash.was_begun, crash.log_path) == (None, None)
    assert (error.was_begun, error.begun_beside, error.pid) == (False, 1, 7)
    assert crash.was_begun is False and pickle.loads(pickle.dumps(crash)).begun_beside == 1
    assert error.was_begun is False and unsettled.looks == 4
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        error.other  # type: ignore[attr-defined]


def test_a_worker_that_is_killed_from_outside_ends_all_waits(channel: slipring.Channel) -> None:
    ended: list[float] = []

    def wait() -> None:
        with pytest.raises(slipring.PeerDied):
            channel.call("wait")
        ended.append(time.monotonic())

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    stream = channel.stream("count", "5")
    while channel.in_flight < 5:
        time.sleep(0.001)
    os.kill(channel.pid, signal.SIGKILL)
    with pytest.raises(slipring.PeerDied):
        list(stream)
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(ended) == 4


def test_a_worker_that_exits_says_its_code(channel: slipring.Channel) -> None:
    with pytest.raises((slipring.HandlerFailed, slipring.PeerDied, slipring.SessionFailed)):
        channel.call("exit", "3", timeout=TIMEOUT)
    assert channel.wait_exit(timeout=TIMEOUT).code == 3


def test_a_setup_that_fails_is_told(spawn: Spawn) -> None:
    channel = spawn(mode="broken")
    with pytest.raises(slipring.SessionFailed) as raised:
        channel.wait_ready(timeout=TIMEOUT)
    assert raised.value.type_name == "FileNotFoundError" and "load" in raised.value.traceback
    assert not channel.is_alive


def test_what_cannot_be_spawned_is_told(tmp_path: Path) -> None:
    with pytest.raises(slipring.SpawnFailed):
        slipring.Spawner("/no/such/program").spawn()
    with pytest.raises(slipring.SpawnFailed) as raised:
        code = "print('no model', flush=True); raise SystemExit(3)"
        slipring.Spawner(sys.executable, ["-c", code], log_dir=tmp_path).spawn()
    assert raised.value.log_tail is not None and "no model" in raised.value.log_tail
    with pytest.raises(slipring.InvalidInput):
        slipring.Spawner(sys.executable, role="no/role").spawn()
    wrong = {"rings": 7}
    with pytest.raises(TypeError, match="no configuration value"):
        slipring.Spawner(sys.executable, config=wrong)  # type: ignore[arg-type]
    with pytest.raises(slipring.SpawnFailed, match="not started as a slipring worker"):
        slipring.Worker().run()
    assert not slipring.is_worker()


def test_a_closed_channel_says_so(spawn: Spawn) -> None:
    with spawn() as channel:
        assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"
    assert channel.exit_cause is not None and channel.exit_cause.code == 0
    with pytest.raises(slipring.Closed):
        channel.call(7, timeout=TIMEOUT)
    assert channel.close().code == 0


def test_a_worker_that_hangs_is_ended_by_close(spawn: Spawn) -> None:
    channel = spawn()
    pending = channel.submit("compute", "60", timeout=TIMEOUT)
    begun = time.monotonic()
    cause = channel.close(timeout=0.1)
    assert cause.signal in (signal.SIGTERM, signal.SIGKILL) or cause.code == 0
    assert time.monotonic() - begun < 15
    with pytest.raises(slipring.Closed):
        pending.wait()


def test_pings_are_answered_while_a_handler_holds_the_lock(channel: slipring.Channel) -> None:
    pending = channel.submit("compute", "1.0", timeout=TIMEOUT)
    while channel.health().state != "busy":
        time.sleep(0.001)
    report = channel.ping(timeout=0.8)
    assert report.state == "busy" and report.current_request == pending.request
    assert pending.poll() is None, "the handler still runs"
    assert pending.wait().text() == "done"
    assert channel.health().requests_served == 1


def test_an_abort_ends_handlers_until_it_is_cleared(channel: slipring.Channel) -> None:
    pending = channel.submit("wait", timeout=TIMEOUT)
    channel.abort()
    with pytest.raises(slipring.Error):
        pending.wait()
    channel.clear_abort()
    assert channel.call(7, timeout=TIMEOUT).text() == "kind 7"


def test_a_forked_child_is_refused_with_the_reason(channel: slipring.Channel) -> None:
    assert "os.fork" in told_after_fork(lambda: channel.call("echo", b"", timeout=TIMEOUT))
    assert bytes(channel.call("echo", b"parent", timeout=TIMEOUT)) == b"parent"


def test_errors_are_exceptions_with_a_message() -> None:
    error = slipring.Error("what happened")
    assert str(error) == "what happened" and error.kind == "error"
    assert str(pickle.loads(pickle.dumps(error))) == "what happened"


@pytest.mark.parametrize("kind", [*_errors._CLASSES, "another"])
def test_an_exception_that_was_pickled_says_the_same(kind: str) -> None:
    details = {
        "cause": slipring.ExitCause(None, 9),
        "log_path": Path("worker.log"),
        "log_tail": "last words",
        "length": 7,
        "queued": 3,
        "sources": ["why"],
        "was_begun": False,
    }
    error = _errors.make(kind, "what happened", details)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
        for name, value in vars(error).items():
            assert str(getattr(again, name)) == str(value), name
