"""The executor, beside what CPython's own tests of executors ask."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import slipring
from conftest import told_after_fork

TIMEOUT = 60.0

started: list[str] = []


def square(number: int) -> int:
    return number * number


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def crash(number: int) -> None:
    print("about to crash")
    os.kill(os.getpid(), number)
    signal.pause()


def leave(code: int) -> None:
    os._exit(code)


def start(*names: str) -> None:
    started.extend(names)


def fail_once(path: str) -> None:
    """Fail unless a file is there, which is made before."""
    if not os.path.exists(path):
        Path(path).touch()
        raise LookupError("no device is free")


def started_with() -> list[str]:
    return started


def unpicklable() -> Any:
    return lambda: None


class Odd(Exception):
    """Cannot be unpickled: it needs two arguments and keeps one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class Sealed(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("sealed")


def raise_odd() -> None:
    raise Odd("one", "two")


def raise_sealed() -> None:
    raise Sealed("what happened")


class FailsToLoad:
    def __reduce__(self) -> Any:
        return int, ("no number",)


class CrashesAtLoad:
    def __reduce__(self) -> Any:
        return crash, (signal.SIGSEGV,)


def give(kind: type[Any]) -> Any:
    return kind()


def say(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)
    sys.stdout.buffer.write(b"bytes\n")
    sys.stdout.flush()


def doubled(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    twice: npt.NDArray[np.float32] = array * 2
    return twice


def owner_of(array: npt.NDArray[np.float32]) -> tuple[str, int, bool]:
    """Return what has the memory of an array, how long it is, and whether it can be written."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    memory = memoryview(owner).obj
    return type(memory).__name__, memoryview(memory).nbytes, array.flags.writeable


def first_byte(name: str) -> tuple[int, bool]:
    """Return the first byte of a shared memory, and whether the process has a tracker of its own."""
    memory = SharedMemory(name)
    buffer = memory.buf
    assert buffer is not None
    byte = buffer[0]
    del buffer
    memory.close()
    return byte, resource_tracker._resource_tracker._pid is not None  # type: ignore[attr-defined]


def about_the_process() -> tuple[str, str | None, int | None, str]:
    parent = multiprocessing.parent_process()
    name = None if parent is None else parent.name
    pid = None if parent is None else parent.pid
    return (multiprocessing.current_process().name, name, pid, multiprocessing.get_start_method())


queue: Any = None


def keep_queue(given: Any) -> None:
    global queue
    queue = given


def put(value: object) -> None:
    queue.put(value)


def test_a_crash_fails_only_the_task_that_was_begun() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        before = executor.submit(square, 2)
        crashing = executor.submit(crash, signal.SIGSEGV)
        behind = [executor.submit(square, number) for number in range(20)]
        assert before.result(TIMEOUT) == 4
        with pytest.raises(slipring.TaskCrashed) as raised:
            crashing.result(TIMEOUT)
        assert [future.result(TIMEOUT) for future in behind] == [n * n for n in range(20)]
        assert executor.submit(square, 3).result(TIMEOUT) == 9
    death = raised.value
    assert isinstance(death, BrokenProcessPool) and isinstance(death, slipring.PeerDied)
    assert death.signal == signal.SIGSEGV and death.was_begun is True
    assert death.log_tail is not None and "about to crash" in death.log_tail
    # `faulthandler` tells where.
    assert "in crash" in death.log_tail and "in crash" in str(death)
    assert "SIGSEGV" in str(death)


def test_each_of_many_crashes_is_that_of_its_task() -> None:
    with slipring.ProcessPoolExecutor(2) as executor:
        futures: list[Future[Any]] = []
        for number in range(30):
            task = (leave, 3) if number % 5 == 0 else (square, number)
            futures.append(executor.submit(*task))
        wait(futures, TIMEOUT)
    for number, future in enumerate(futures):
        if number % 5 == 0:
            error = future.exception()
            assert isinstance(error, slipring.TaskCrashed)
            assert error.cause is not None and error.cause.code == 3
        else:
            assert future.result() == number * number


def test_threads_submit_at_the_same_time() -> None:
    results: list[list[int]] = []
    with slipring.ProcessPoolExecutor(2) as executor:

        def submit() -> None:
            futures = [executor.submit(square, number) for number in range(500)]
            results.append([future.result(TIMEOUT) for future in futures])

        threads = [threading.Thread(target=submit) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [[number * number for number in range(500)]] * 6


def test_idle_processes_that_are_killed_fail_no_task() -> None:
    with slipring.ProcessPoolExecutor(2) as executor:
        futures = [executor.submit(pid_after, 0.2) for _ in range(2)]
        pids = {future.result(TIMEOUT) for future in futures}
        assert set(executor._processes) == pids
        for process in executor._processes.values():
            process.kill()
        assert executor.submit(pid_after, 0).result(TIMEOUT) not in pids


def test_what_cannot_be_pickled_is_an_error_of_its_task() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        futures: list[Future[Any]] = [
            executor.submit(lambda: None),
            executor.submit(square, threading.Lock()),  # type: ignore[arg-type]
            executor.submit(unpicklable),
            executor.submit(give, FailsToLoad),
            executor.submit(square, FailsToLoad()),  # type: ignore[arg-type]
        ]
        good = executor.submit(square, 5)
        errors = [future.exception(TIMEOUT) for future in futures]
        assert all(isinstance(error, Exception) for error in errors)
        assert not any(isinstance(error, BrokenProcessPool) for error in errors)
        assert isinstance(errors[4], ValueError)
        crashing = executor.submit(square, CrashesAtLoad())  # type: ignore[arg-type]
        assert isinstance(crashing.exception(TIMEOUT), slipring.TaskCrashed)
        assert good.result(TIMEOUT) == 25


def test_exceptions_that_cannot_cross_are_told_as_text() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        tasks: list[tuple[Callable[[], None], str]] = [(raise_odd, "Odd"), (raise_sealed, "Sealed")]
        for task, name in tasks:
            future: Future[None] = executor.submit(task)
            error = future.exception(TIMEOUT)
            assert isinstance(error, slipring.HandlerFailed)
            assert error.type_name.endswith(name) and task.__name__ in error.traceback
        assert executor.submit(square, 5).result(TIMEOUT) == 25


def test_an_initializer_runs_in_each_process() -> None:
    with slipring.ProcessPoolExecutor(1, initializer=start, initargs=("a", "b")) as executor:
        assert executor.submit(started_with).result(TIMEOUT) == ["a", "b"]
        assert executor.submit(started_with).result(TIMEOUT) == ["a", "b"]


def test_an_initializer_that_fails_fails_one_task(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    with slipring.ProcessPoolExecutor(1, initializer=fail_once, initargs=(mark,)) as executor:
        error = executor.submit(square, 2).exception(TIMEOUT)
        assert isinstance(error, slipring.InitializerFailed)
        assert isinstance(error, BrokenProcessPool)
        assert isinstance(error.__cause__, LookupError)
        # The next task has it called again.
        assert executor.submit(square, 2).result(TIMEOUT) == 4
    with slipring.ProcessPoolExecutor(1, initializer=fail_once, initargs=(lambda: 0,)) as executor:
        error = executor.submit(square, 2).exception(TIMEOUT)
        assert isinstance(error, slipring.InitializerFailed)


def test_an_initializer_that_crashes_is_told_with_its_log() -> None:
    with slipring.ProcessPoolExecutor(1, initializer=crash, initargs=(signal.SIGSEGV,)) as executor:
        error = executor.submit(square, 2).exception(TIMEOUT)
    assert isinstance(error, BrokenProcessPool)
    assert "SIGSEGV" in str(error) and "about to crash" in str(error)
    assert isinstance(error.__cause__, slipring.Degraded)


def test_an_initializer_can_have_a_queue_of_multiprocessing() -> None:
    context = multiprocessing.get_context("spawn")
    given = context.Queue()
    with slipring.ProcessPoolExecutor(
        2, mp_context=context, initializer=keep_queue, initargs=(given,)
    ) as executor:
        wait([executor.submit(put, number) for number in range(4)], TIMEOUT)
        assert sorted(given.get(timeout=TIMEOUT) for _ in range(4)) == [0, 1, 2, 3]
    given.close()
    given.join_thread()


def test_shared_memory_outlives_the_processes_that_used_it() -> None:
    memory = SharedMemory(create=True, size=64)
    try:
        buffer = memory.buf
        assert buffer is not None
        buffer[0] = 7
        del buffer
        for _ in range(2):
            with slipring.ProcessPoolExecutor(1) as executor:
                assert executor.submit(first_byte, memory.name).result(TIMEOUT) == (7, False)
    finally:
        memory.close()
        memory.unlink()


def test_processes_know_their_parent() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        name, parent, pid, method = executor.submit(about_the_process).result(TIMEOUT)
    assert name.startswith("SlipringProcess-")
    assert (parent, pid, method) == (multiprocessing.current_process().name, os.getpid(), "spawn")


def test_processes_are_replaced_after_their_tasks() -> None:
    with slipring.ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(pid_after, 0).result(TIMEOUT) for _ in range(6)]
    assert len(set(pids)) >= 3
    assert all(pids.count(pid) <= 2 for pid in pids)


def test_a_signal_handler_can_submit_a_task() -> None:
    futures: list[Future[int]] = []
    with slipring.ProcessPoolExecutor(1) as executor:
        before = signal.signal(
            signal.SIGALRM, lambda number, frame: futures.append(executor.submit(square, 3))
        )
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for number in range(1000):
                futures.append(executor.submit(square, number))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert all(future.result(TIMEOUT) >= 0 for future in futures)


def test_large_arguments_and_results_cross() -> None:
    array = np.arange(20_000_000, dtype=np.float32)
    with slipring.ProcessPoolExecutor(1) as executor:
        assert (executor.submit(doubled, array).result(TIMEOUT) == array * 2).all()


def test_large_arrays_are_no_copies_of_parts_of_a_pickle() -> None:
    array = np.arange(1000, dtype=np.float32)
    frozen = array.view()
    frozen.flags.writeable = False
    with slipring.ProcessPoolExecutor(1) as executor:
        for given in (array, frozen):
            # Not an array of its own, into which a buffer of the pickle was copied.
            owner = ("bytearray" if given.flags.writeable else "bytes", array.nbytes)
            assert executor.submit(owner_of, given).result(TIMEOUT) == (*owner, given.flags.writeable)
            result = executor.submit(np.copy, given).result(TIMEOUT)
            assert np.array_equal(result, array)
            assert owner_of(result) == ("bytearray", array.nbytes, True)


def test_tasks_that_wait_can_be_cancelled() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        first = executor.submit(pid_after, 0.3)
        futures = [executor.submit(square, number) for number in range(10)]
        assert futures[-1].cancel() and futures[-1].cancelled()
        assert first.result(TIMEOUT) > 0 and futures[0].result(TIMEOUT) == 0
        assert not first.cancel()
    assert all(future.done() for future in futures)


def test_a_shutdown_can_be_waited_for_or_not() -> None:
    executor = slipring.ProcessPoolExecutor(1)
    futures = [executor.submit(pid_after, 0.1) for _ in range(5)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    assert all(future.result(TIMEOUT) for future in futures)
    executor.shutdown()
    manager = executor._executor_manager_thread
    assert manager is not None and not manager.is_alive()
    unused = slipring.ProcessPoolExecutor(1)
    unused.shutdown()
    cancelled = slipring.ProcessPoolExecutor(1)
    futures = [cancelled.submit(pid_after, 0.1) for _ in range(10)]
    cancelled.shutdown(cancel_futures=True)
    # Those for which there was a process, and the one behind them, are run.
    assert sum(future.cancelled() for future in futures) == 8
    assert all(future.done() for future in futures)


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_processes_are_ended_at_once(how: str) -> None:
    executor = slipring.ProcessPoolExecutor(1)
    executor.submit(square, 1).result(TIMEOUT)
    futures = [executor.submit(pid_after, 600) for _ in range(5)]
    while not futures[0].running():
        time.sleep(0.001)
    processes = executor._processes
    getattr(executor, how)()
    wait(futures, TIMEOUT)
    errors = [None if future.cancelled() else future.exception(0) for future in futures]
    assert all(error is None or isinstance(error, BrokenProcessPool) for error in errors)
    assert 3 <= sum(future.cancelled() for future in futures) <= 4
    executor.shutdown()
    assert not any(process.is_alive() for process in processes.values())
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)


def test_an_executor_that_is_forgotten_ends_after_its_tasks() -> None:
    executor = slipring.ProcessPoolExecutor(1)
    future = executor.submit(pid_after, 0.2)
    manager = executor._executor_manager_thread
    assert manager is not None
    del executor
    gc.collect()
    assert future.result(TIMEOUT) > 0
    manager.join(TIMEOUT)
    assert not manager.is_alive()


def test_asyncio_runs_functions_in_it() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with slipring.ProcessPoolExecutor(2) as executor:
            return await asyncio.gather(
                *(loop.run_in_executor(executor, square, number) for number in range(10))
            )

    assert asyncio.run(main()) == [number * number for number in range(10)]


def test_it_is_an_executor_whose_mistakes_raise() -> None:
    assert issubclass(slipring.ProcessPoolExecutor, Executor)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        slipring.ProcessPoolExecutor(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        slipring.ProcessPoolExecutor(initializer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_tasks_per_child must be >= 1"):
        slipring.ProcessPoolExecutor(max_tasks_per_child=0)
    with pytest.raises(TypeError, match="max_tasks_per_child must be an integer"):
        slipring.ProcessPoolExecutor(max_tasks_per_child=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        slipring.ProcessPoolExecutor(1).map(square, [1], chunksize=0)


def test_errors_of_tasks_can_be_pickled() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        error = executor.submit(crash, signal.SIGKILL).exception(TIMEOUT)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, slipring.TaskCrashed) and str(again) == str(error)


def test_logs_are_kept_where_they_are_asked_for(tmp_path: Path, capfd: Any) -> None:
    with slipring.ProcessPoolExecutor(1, log_dir=tmp_path / "logs") as executor:
        executor.submit(say, "hello").result(TIMEOUT)
        [process] = executor._processes
    out, err = capfd.readouterr()
    # What is printed comes where the host's own output goes, too.
    assert out == "hello\nbytes\n" and err == "HELLO\n"
    log = tmp_path / "logs" / f"{process}.log"
    assert sorted(log.read_text().splitlines()) == ["HELLO", "bytes", "hello"]


def log_sizes(folder: str) -> list[int]:
    """Print much, and return how long the log of this process is after each line."""
    path = os.path.join(folder, f"{os.getpid()}.log")
    sizes = []
    for number in range(2000):
        print(f"{number} " + "x" * 1000, file=sys.stdout if number % 2 else sys.stderr)
        sizes.append(os.path.getsize(path))
    print("y" * 1_000_000)
    return [*sizes, os.path.getsize(path)]


def test_a_log_that_is_not_kept_has_a_limit(tmp_path: Path, capfd: Any) -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        executor.submit(square, 2).result(TIMEOUT)
        folder = executor._tasks._start._log_dir
        assert folder is not None
        sizes = executor.submit(log_sizes, folder).result(TIMEOUT)
        assert len(sizes) == 2001 and 50_000 < max(sizes) < 80_000
        death = executor.submit(crash, signal.SIGKILL).exception(TIMEOUT)
    assert isinstance(death, slipring.TaskCrashed) and death.log_tail is not None
    assert death.log_tail.endswith("y\nabout to crash\n")
    assert len(capfd.readouterr().out) > 2_000_000, "all of it came where the host prints"
    with slipring.ProcessPoolExecutor(1, log_dir=tmp_path) as executor:
        assert max(executor.submit(log_sizes, str(tmp_path)).result(TIMEOUT)) > 3_000_000


SCRIPT = """
import os, sys, threading
from slipring import ProcessPoolExecutor

def where():
    return __name__, os.getpid() == HOST

HOST = os.getpid()
sys.path.append("/not/there")

def path():
    return "/not/there" in sys.path

if __name__ == "__main__":
    before = threading.active_count()
    executor = ProcessPoolExecutor(2)
    assert threading.active_count() == before
    assert executor.submit(where).result() == ("__mp_main__", True), executor.submit(where).result()
    assert executor.submit(path).result()
    # Without a shutdown: the end of the interpreter waits for it.
    executor.submit(print, "apple")
    other = ProcessPoolExecutor(1)
    other.submit(abs, -1).result()
    other.submit(print, "pear")
    other.shutdown(wait=False)
"""


def test_a_main_module_is_prepared_as_multiprocessing_does(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=TIMEOUT)
    assert (ran.returncode, sorted(ran.stdout.split()), ran.stderr) == (0, ["apple", "pear"], "")


def test_a_main_module_without_its_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import slipring\n"
        "with slipring.ProcessPoolExecutor(1) as executor:\n"
        "    print(executor.submit(abs, -1).exception())\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=TIMEOUT)
    assert ran.returncode == 0 and "could not prepare" in ran.stdout, ran.stdout + ran.stderr
    assert "bootstrapping phase" in ran.stdout


def test_a_forked_child_is_refused() -> None:
    with slipring.ProcessPoolExecutor(1) as executor:
        assert executor.submit(square, 2).result(TIMEOUT) == 4
        assert "os.fork" in told_after_fork(lambda: executor.submit(square, 2))
        assert executor.submit(square, 3).result(TIMEOUT) == 9


def test_processes_start_though_their_directory_of_logs_was_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    with slipring.ProcessPoolExecutor(1, log_dir=logs) as executor:
        for _ in range(2):
            assert executor.submit(square, 3).result(TIMEOUT) == 9
            shutil.rmtree(logs)
            with pytest.raises(slipring.TaskCrashed):
                executor.submit(crash, signal.SIGKILL).result(TIMEOUT)


def test_what_the_host_does_to_futures_does_not_stop_the_others(capfd: Any) -> None:
    def leave_by(_: Future[int]) -> None:
        raise SystemExit("a callback of the host's")

    with slipring.ProcessPoolExecutor(1) as executor:
        held = executor.submit(time.sleep, 0.3)
        ended = [executor.submit(square, 2) for _ in range(4)]
        ended[3].set_result(0)
        executor.submit(square, 4).add_done_callback(leave_by)
        assert executor.submit(square, 5).result(TIMEOUT) == 25
        held.result(TIMEOUT)
    assert "a callback of the host's" in capfd.readouterr().err


def test_an_executor_whose_thread_could_not_be_started_starts_it_later(monkeypatch: Any) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with slipring.ProcessPoolExecutor(1) as executor:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            executor.submit(square, 3)
        monkeypatch.setattr(threading.Thread, "start", start)
        assert executor.submit(square, 3).result(TIMEOUT) == 9


def test_a_task_beside_a_failing_start_is_not_forgotten(monkeypatch: Any) -> None:
    executor = slipring.ProcessPoolExecutor(1)
    tasks = executor._tasks
    begun, has_looked, has_failed = (threading.Event() for _ in range(3))

    class Lock:
        """Lets the thread that makes the pool fail after another thread has looked for it."""

        def acquire(self, blocking: bool) -> bool:
            if not begun.is_set():
                begun.set()
                return True
            has_looked.set()
            assert has_failed.wait(TIMEOUT)
            return False

        def release(self) -> None:
            pass

    def fail() -> None:
        assert has_looked.wait(TIMEOUT)
        raise OSError("no space")

    monkeypatch.setattr(tasks, "_begun", Lock())
    monkeypatch.setattr(tasks, "_begin", fail)

    def submit_first() -> None:
        with pytest.raises(OSError, match="no space"):
            executor.submit(square, 1)
        has_failed.set()

    first = threading.Thread(target=submit_first)
    first.start()
    assert begun.wait(TIMEOUT)
    beside = executor.submit(square, 2)
    first.join()
    assert isinstance(beside.exception(TIMEOUT), OSError)
    executor.shutdown()


ENVIRONMENT = """
import os, sys, threading, time
import slipring

is_over = False

def change():
    number = 0
    while not is_over:
        names = [f"SLIPRING_TEST_{number}_{index}" for index in range(64)]
        for name in names:
            os.environ[name] = "x" * 100
        for name in names:
            del os.environ[name]
        number += 1

thread = threading.Thread(target=change)
thread.start()
spawner = slipring.Spawner("/bin/false")
for _ in range(300):
    try:
        spawner.spawn()
    except slipring.SpawnFailed:
        pass
is_over = True
thread.join()
"""


def test_workers_start_while_the_environment_changes(tmp_path: Path) -> None:
    script = tmp_path / "environment.py"
    script.write_text(ENVIRONMENT)
    subprocess.run([sys.executable, script], check=True, timeout=300)
