"""Pools, used by threads."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slipring
from conftest import told_after_fork
from test_signals import interrupted

WORKER = Path(__file__).with_name("pool_worker.py")
TIMEOUT = 60.0

MakePool = Callable[..., slipring.Pool]


def spawner(tmp_path: Path, **options: Any) -> slipring.Spawner:
    options = {"log_dir": tmp_path, "handshake_timeout": 60.0, **options}
    return slipring.Spawner(sys.executable, [WORKER], **options)


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Make pools with one role, `test`, which are closed after the test."""
    pools: list[slipring.Pool] = []

    def make(recipe: Any = None, **options: Any) -> slipring.Pool:
        role = slipring.PoolRole(recipe or spawner(tmp_path), **options)
        pool = slipring.Pool({"test": role})
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close(timeout=0)


@pytest.fixture
def role(make_pool: MakePool) -> slipring.RoleHandle:
    return make_pool(max_size=2, stop_timeout=1.0).role("test")


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def test_requests_are_answered_by_name_of_a_role(role: slipring.RoleHandle) -> None:
    assert bytes(role.call("echo", b"bytes", timeout=TIMEOUT)) == b"bytes"
    assert role.call("echo", ["a", "b"], timeout=TIMEOUT).texts() == ["a", "b"]
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    reply = role.call("echo", matrix, timeout=TIMEOUT)
    assert (reply.array() == matrix).all() and (reply.view() == matrix).all()
    # A spawner without a role has the name of the pool's.
    assert role.call("told", "role", timeout=TIMEOUT).text() == "test"
    assert role.name == "test"


def test_requests_of_one_thread_are_in_flight_together(role: slipring.RoleHandle) -> None:
    pending = [role.submit("echo", str(number), timeout=TIMEOUT) for number in range(100)]
    assert [reply.wait().text() for reply in pending] == [str(number) for number in range(100)]
    assert len({one.request for one in pending}) == 100
    slow = role.submit("sleep", "0.2", timeout=TIMEOUT)
    assert slow.poll() is None
    assert slow.poll(timeout=TIMEOUT) is not None
    with pytest.raises(slipring.InvalidInput):
        slow.wait()


def test_threads_share_a_role(role: slipring.RoleHandle) -> None:
    answers: list[str] = []

    def ask() -> None:
        for number in range(20):
            answers.append(role.call("echo", str(number), timeout=TIMEOUT).text())
            assert [chunk.text() for chunk in role.stream("count", "3")] == ["0", "1", "2"]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers, key=int) == [str(number) for number in range(20) for _ in range(4)]


def test_long_payloads_cross_whole(role: slipring.RoleHandle) -> None:
    for payload in (os.urandom(3_000_000), bytearray(os.urandom(200_000))):
        assert bytes(role.submit("echo", payload, timeout=TIMEOUT).wait()) == payload
    texts = ["text"] * 50_000
    assert role.call("echo", texts, timeout=TIMEOUT).texts() == texts


def test_replies_that_are_kept_hold_no_worker(role: slipring.RoleHandle) -> None:
    payload = bytes(1_000_000)
    kept = [role.submit("echo", payload, timeout=TIMEOUT) for _ in range(30)]
    replies = [pending.wait() for pending in kept]
    assert bytes(role.call("echo", b"more", timeout=TIMEOUT)) == b"more"
    assert all(bytes(reply) == payload for reply in replies)


def test_streams_deliver_their_chunks_and_can_be_left(role: slipring.RoleHandle) -> None:
    with role.stream("count", "5") as stream:
        assert [chunk.text() for chunk in stream] == ["0", "1", "2", "3", "4"]
        assert list(stream) == []
    stream = role.stream("stall")
    assert next(stream).text() == "one" and stream.request is not None
    stream.cancel()
    with pytest.raises(slipring.Cancelled):
        next(stream)
    forgotten = role.stream("stall")
    next(forgotten)
    del forgotten
    gc.collect()
    wait_until(lambda: role.health().load.in_flight == 0)
    with pytest.raises(slipring.Stalled):
        list(role.stream("stall", chunk_timeout=0.05))
    assert role.call("echo", "well", timeout=TIMEOUT).text() == "well"


def test_a_stream_that_is_interrupted_is_not_late_for_that(role: slipring.RoleHandle) -> None:
    stream = role.stream(
        "stall", chunk_timeout=0.5, first_chunk_timeout=TIMEOUT, timeout=TIMEOUT
    )
    assert next(stream).text() == "one"
    with interrupted(0.05):
        next(stream)
    time.sleep(0.3)
    begun = time.monotonic()
    with pytest.raises(slipring.Stalled):
        next(stream)
    assert time.monotonic() - begun > 0.3


def test_a_stream_is_closed_while_another_thread_waits_for_it(role: slipring.RoleHandle) -> None:
    stream = role.stream("stall")
    assert next(stream).text() == "one"
    ends: list[object] = []

    def wait() -> None:
        try:
            ends.append(next(stream))
        except slipring.Cancelled as error:
            ends.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    stream.close()
    thread.join(TIMEOUT)
    assert len(ends) == 1 and isinstance(ends[0], slipring.Cancelled)


def test_a_pending_request_is_cancelled(role: slipring.RoleHandle) -> None:
    pending = role.submit("sleep", "600")
    thread = threading.Timer(0.1, role.cancel, (pending,))
    thread.start()
    with pytest.raises(slipring.Cancelled):
        pending.wait()
    thread.join()
    waits = [role.submit("sleep", "600") for _ in range(10)]
    waits.clear()
    gc.collect()
    wait_until(lambda: role.health().load.in_flight == 0)


def test_a_death_fails_what_was_begun_and_not_what_waited(make_pool: MakePool) -> None:
    role = make_pool(max_size=1, prefetch=4).role("test")
    crash = role.submit("crash", str(int(signal.SIGSEGV)), timeout=TIMEOUT)
    behind = [role.submit("echo", str(number), timeout=TIMEOUT) for number in range(10)]
    with pytest.raises(slipring.PeerDied) as raised:
        crash.wait()
    death = raised.value
    assert death.signal == signal.SIGSEGV and death.was_begun is True
    assert (death.begun_alone, death.begun_beside) == (True, 0)
    assert death.log_tail is not None and "about to crash" in death.log_tail
    assert "not declared idempotent" in str(death)
    assert [pending.wait().text() for pending in behind] == [str(number) for number in range(10)]
    assert role.metrics().resent_unbegun > 0


def test_what_may_be_served_twice_is_sent_again(make_pool: MakePool, tmp_path: Path) -> None:
    reports = tmp_path / "crashes"
    recipe = spawner(tmp_path, crash_reports=reports)
    role = make_pool(recipe, max_size=1, idempotent=["crash"]).role("test")
    mark = str(tmp_path / "mark")
    reply = role.call("crash once", mark, timeout=TIMEOUT, idempotent=True)
    assert reply.text() == "survived"
    with pytest.raises(slipring.Poison) as raised:
        role.call("crash", str(int(signal.SIGSEGV)), timeout=TIMEOUT)
    poison = raised.value
    assert isinstance(poison, slipring.PeerDied) and poison.signal == signal.SIGSEGV
    assert poison.was_begun is True and poison.earlier_attempts >= 1
    assert all("SIGSEGV" in end for end in poison.earlier_ends)
    assert role.metrics().resent_begun >= 2
    wait_until(lambda: poison.crash_report is not None)
    last = json.loads(Path(poison.crash_report or "").read_text())
    assert last["worker"]["pid"] == poison.pid
    assert last["pool"]["resent_requests"][0]["is_alone"] is True


def test_a_full_queue_refuses_with_its_numbers(make_pool: MakePool) -> None:
    role = make_pool(max_size=1, prefetch=0, max_waiting=2).role("test")
    role.call("echo", timeout=TIMEOUT)
    held = [role.submit("sleep", "600", timeout=TIMEOUT) for _ in range(3)]
    with pytest.raises(slipring.Overloaded) as raised:
        role.submit("echo", timeout=TIMEOUT)
    load = raised.value
    assert (load.queued, load.limit, load.in_flight) == (2, 2, 1)
    assert load.oldest_wait is not None and load.retry_after is not None
    assert load.was_begun is False
    assert role.health().load.queued == 2
    del held


def test_timeouts_say_where_the_request_was(make_pool: MakePool) -> None:
    role = make_pool(max_size=1, prefetch=0).role("test")
    role.call("echo", timeout=TIMEOUT)
    held = role.submit("sleep", "600", timeout=TIMEOUT)
    for ask in (role.call, lambda *rest, **more: role.submit(*rest, **more).wait()):
        with pytest.raises(slipring.QueueTimeout) as raised:
            ask("echo", timeout=0.05)
        assert isinstance(raised.value, TimeoutError) and raised.value.was_begun is False
    held.cancel()
    with pytest.raises(slipring.Cancelled):
        held.wait()
    while True:
        with pytest.raises(slipring.TimeoutError) as begun:
            role.call("sleep", "600", timeout=0.2)
        # The worker of a busy machine may find it too late to begin.
        if begun.value.was_begun:
            break
    assert not isinstance(begun.value, slipring.QueueTimeout)
    with pytest.raises(slipring.QueueTimeout):
        blocked = role.submit("hang", timeout=TIMEOUT)
        role.stream("count", "1", queue_timeout=0.05)
    del blocked


def test_failures_of_handlers_are_answers(role: slipring.RoleHandle) -> None:
    with pytest.raises(slipring.HandlerFailed) as raised:
        role.call("fail", "odd", timeout=TIMEOUT)
    assert (raised.value.type_name, raised.value.message) == ("ValueError", "odd")


def test_priorities_and_keys_are_taken(make_pool: MakePool) -> None:
    role = make_pool(min_idle=1, max_size=1, prefetch=0).role("test")
    role.call("echo", timeout=TIMEOUT)
    held = role.submit("sleep", "600")
    low = role.submit("turn", timeout=TIMEOUT, priority="low")
    normal = role.submit("turn", timeout=TIMEOUT)
    high = role.submit("turn", timeout=TIMEOUT, priority="high")
    held.cancel()
    assert [pending.wait().text() for pending in (high, normal, low)] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="a priority is"):
        role.call("echo", priority="urgent")  # type: ignore[arg-type]
    assert role.call("echo", "keyed", timeout=TIMEOUT, key=("user", 7)).text() == "keyed"


def test_requests_with_a_key_go_to_one_worker(make_pool: MakePool) -> None:
    pool = make_pool(min_idle=2, max_size=2)
    events, role = pool.events(), pool.role("test")
    while len([one for one in role.health().workers if one.pid]) < 2:
        assert events.poll(timeout=TIMEOUT) is not None
    # Until both are ready.
    wait_until(lambda: len({pid_of_key(role, number) for number in range(20)}) == 2)
    workers = [pid_of_key(role, number) for number in range(20)]
    assert [pid_of_key(role, number) for number in range(20)] == workers
    # Without a key the first one that is free serves all.
    assert len({role.call("pid", timeout=TIMEOUT).text() for _ in range(20)}) == 1


def pid_of_key(role: slipring.RoleHandle, number: int) -> str:
    return role.call("pid", timeout=TIMEOUT, key=("user", number)).text()


def test_a_recipe_gets_the_place_of_its_worker(make_pool: MakePool, tmp_path: Path) -> None:
    places: list[tuple[str, int, int]] = []

    def recipe(slot: slipring.WorkerSlot) -> slipring.Spawner:
        places.append((slot.role, slot.index, slot.restarts))
        return spawner(tmp_path, extra={"device": str(slot.index)})

    role = make_pool(recipe, min_idle=2, max_size=2).role("test")
    wait_until(lambda: len(places) == 2)
    assert sorted(places) == [("test", 0, 0), ("test", 1, 0)]
    assert role.call("told", "device", timeout=TIMEOUT).text() in ("0", "1")


def test_a_recipe_that_fails_is_told(make_pool: MakePool) -> None:
    def recipe(slot: slipring.WorkerSlot) -> slipring.Spawner:
        raise LookupError("no device is free")

    pool = make_pool(recipe, backoff=(0.01, 0.02, 60.0), max_failures=(2, 60.0), lazy=True)
    events = pool.events()
    role = pool.role("test")
    with pytest.raises(slipring.Degraded, match="no device is free") as raised:
        role.call("echo", timeout=TIMEOUT)
    assert isinstance(raised.value, slipring.Overloaded) and raised.value.was_begun is False
    failed = next(event for event in events if event.error)
    assert isinstance(failed.error, LookupError) and failed.kind == "start_failed"
    health = pool.health()
    assert not health.is_ready and health.roles["test"].is_degraded
    wrong = make_pool(lambda slot: "no spawner", backoff=(0.01, 0.02, 60.0), max_failures=(1, 60.0))
    with pytest.raises(slipring.Degraded, match="a recipe returns a Spawner"):
        wrong.role("test").call("echo", timeout=TIMEOUT)


def test_mistakes_raise_when_the_pool_is_built(tmp_path: Path) -> None:
    def build(**options: Any) -> slipring.Pool:
        return slipring.Pool({"test": slipring.PoolRole(spawner(tmp_path), **options)})

    for options in ({"max_size": 0}, {"min_idle": 3}, {"max_requests": 0}, {"hang_timeout": 0.0}):
        with pytest.raises(slipring.InvalidInput, match="role test"):
            build(**options)
    with pytest.raises(slipring.InvalidInput, match="a pool needs a role"):
        slipring.Pool({})
    with pytest.raises(slipring.InvalidInput, match="a name must be"):
        slipring.Pool({"no name": slipring.PoolRole(spawner(tmp_path))})
    with pytest.raises(TypeError, match="a recipe is a Spawner or a callable"):
        slipring.PoolRole("worker.py")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        build(max_sise=3)
    with pytest.raises(ValueError, match="must be finite"):
        build(grow_after=-1.0)


def test_events_tell_of_the_workers_until_the_close(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, lazy=True)
    events, role = pool.events(), pool.role("test")
    role.call("echo", timeout=TIMEOUT)
    with pytest.raises(slipring.PeerDied):
        role.call("crash", timeout=TIMEOUT)
    role.call("echo", timeout=TIMEOUT)
    pool.close(timeout=TIMEOUT)
    seen = list(events)
    # The replacement may be started a moment before the death is told.
    kinds = [event.kind for event in seen]
    assert sorted(kinds) == ["died", "ready", "ready", "started", "started", "stopped"]
    assert seen[1].started_for is not None and seen[1].pid is not None
    died = seen[kinds.index("died")].error
    assert isinstance(died, slipring.PeerDied) and died.signal == signal.SIGKILL
    assert events.is_over and events.poll() is None


def test_a_request_that_hangs_ends_with_its_worker(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, hang_timeout=0.3)
    events, role = pool.events(), pool.role("test")
    with pytest.raises(slipring.PeerDied):
        role.call("hang", timeout=TIMEOUT)
    assert any(event.kind == "hung" for event in events)
    assert role.metrics().workers["hung"] == 1


def test_metrics_count_by_kind_and_are_text_of_prometheus(make_pool: MakePool) -> None:
    pool = make_pool(kinds=["echo", "fail"])
    role = pool.role("test")
    for _ in range(3):
        role.call("echo", b"123", timeout=TIMEOUT)
    with pytest.raises(slipring.HandlerFailed):
        role.call("fail", "", timeout=TIMEOUT)
    metrics = pool.metrics()["test"]
    assert metrics.requests == {("echo", "ok"): 3, ("fail", "handler_failed"): 1}
    assert metrics.service_times.count == 4 and metrics.queue_times.sum > 0
    median = metrics.service_times.quantile(0.5)
    assert median is not None and median > 0
    assert metrics.workers["started"] == 1 and metrics.channels["bytes_sent"] == 9
    line = 'slipring_requests_total{role="test",kind="echo",outcome="ok"} 3'
    assert line in pool.prometheus().splitlines()


def test_health_and_pings_tell_of_each_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    role = pool.role("test")
    pid = int(role.call("pid", timeout=TIMEOUT).text())
    health = pool.health()
    assert health.is_ready and health.events_dropped == 0
    [worker] = health.roles["test"].workers
    assert (worker.index, worker.pid, worker.is_alive) == (0, pid, True)
    assert worker.health is not None and worker.health.requests_served >= 1
    [report] = role.ping(timeout=TIMEOUT)
    assert isinstance(report, slipring.Health) and report.state == "idle"


def test_a_reload_replaces_workers_and_fails_no_request(
    make_pool: MakePool, tmp_path: Path
) -> None:
    role = make_pool(spawner(tmp_path, extra={"version": "1"})).role("test")
    assert role.call("told", "version", timeout=TIMEOUT).text() == "1"
    role.reload(slipring.PoolRole(spawner(tmp_path, extra={"version": "2"})))
    wait_until(lambda: role.call("told", "version", timeout=TIMEOUT).text() == "2")
    with pytest.raises(slipring.InvalidInput):
        role.reload(slipring.PoolRole(spawner(tmp_path), max_size=0))
    wait_until(lambda: role.metrics().recycled.get("recipe") == 1)


def test_a_reset_heals_a_role(make_pool: MakePool, tmp_path: Path) -> None:
    broken = spawner(tmp_path, mode="broken")
    pool = make_pool(broken, backoff=(0.01, 60.0, 60.0), max_failures=(1, 60.0))
    role = pool.role("test")
    wait_until(lambda: role.health().is_degraded)
    role.reload(slipring.PoolRole(spawner(tmp_path)))
    role.reset()
    assert role.call("echo", "well", timeout=TIMEOUT).text() == "well"


def test_an_abort_ends_handlers_until_it_is_cleared(role: slipring.RoleHandle) -> None:
    role.call("echo", timeout=TIMEOUT)
    pending = role.submit("sleep", "600")
    wait_until(lambda: any(one.health and one.health.state == "busy" for one in role.health().workers))
    role.abort()
    with pytest.raises(slipring.Error):
        pending.wait()
    role.clear_abort()
    assert role.call("echo", "well", timeout=TIMEOUT).text() == "well"


def test_a_pool_that_is_closed_says_so(make_pool: MakePool) -> None:
    with make_pool() as pool:
        role = pool.role("test")
        served = role.submit("sleep", "0.2", timeout=TIMEOUT)
    assert served.wait().text().isdigit()
    with pytest.raises(slipring.Closed):
        role.call("echo", timeout=TIMEOUT)
    assert not pool.health().is_ready
    pool.close()
    with pytest.raises(slipring.InvalidInput, match="no role"):
        pool.role("other")


def test_waits_of_the_main_thread_are_interrupted(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, prefetch=0, stop_timeout=1.0)
    events, role = pool.events(), pool.role("test")
    role.call("echo", timeout=TIMEOUT)
    with interrupted():
        role.call("sleep", "600")
    pending = role.submit("sleep", "1", timeout=TIMEOUT)
    with interrupted():
        pending.wait()
    with interrupted():
        role.stream("count", "3")
    assert pending.wait().text().isdigit()
    stream = role.stream("stall")
    assert next(stream).text() == "one"
    with interrupted():
        next(stream)
    stream.cancel()
    with pytest.raises(slipring.Cancelled):
        next(stream)
    while events.poll() is not None:
        pass
    with interrupted():
        next(events)
    assert events.poll() is None
    wait_until(lambda: role.health().load.in_flight == 0)
    held = role.submit("hang", timeout=TIMEOUT)
    with interrupted():
        pool.close(timeout=TIMEOUT)
    held.cancel()


def test_a_forked_child_is_refused(make_pool: MakePool) -> None:
    pool = make_pool()
    role = pool.role("test")
    role.call("echo", timeout=TIMEOUT)
    assert "os.fork" in told_after_fork(lambda: role.call("echo", timeout=TIMEOUT))
    assert role.call("echo", "parent", timeout=TIMEOUT).text() == "parent"
