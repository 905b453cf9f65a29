"""Run a generator function over many tasks in worker processes, and stream its results."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MAX_WORKERS = 8


def default_workers() -> int:
    """Return the number of cores that this process may use, at most MAX_WORKERS."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run(function: Callable[[T], Iterator[R]], tasks: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Yield what function(task) yields, for all tasks, in the order in which results arrive.

    One worker is this process itself. A task is taken from `tasks` when a worker is free for it. No worker outlives
    the call.
    Raises what `function` raises, and OSError if a worker dies.
    """
    if workers < 1:
        raise ValueError(f"the number of workers is {workers}; set --workers to 1 (in this process) or more")
    if workers == 1:
        for task in tasks:
            yield from function(task)
        return
    pool: dict[Connection, BaseProcess] = {}
    try:
        remaining = iter(tasks)
        for task in islice(remaining, workers):
            connection = _start(pool, function)
            connection.send(task)
        while pool:
            for connection in _ready(pool):
                result = connection.recv()
                if isinstance(result, Exception):
                    raise result
                if result is not None:
                    yield result
                elif upcoming := list(islice(remaining, 1)):
                    connection.send(upcoming[0])
                else:
                    connection.close()
                    pool.pop(connection).join()
    except (EOFError, ConnectionError) as error:
        raise _worker_error(pool.values()) from error
    finally:
        for connection, process in pool.items():
            process.kill()
            process.join()
            connection.close()


def _start(pool: dict[Connection, BaseProcess], function: Callable[..., Any]) -> Connection:
    # Not fork, which can deadlock in a process with threads, and not spawn, where each worker imports all modules.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", function.__module__])
    connection, child_connection = context.Pipe()
    process = context.Process(target=_work, args=(child_connection, function), daemon=True)
    process.start()
    child_connection.close()
    pool[connection] = process
    return connection


def _ready(pool: dict[Connection, BaseProcess]) -> list[Connection]:
    return [each for each in wait(list(pool)) if isinstance(each, Connection)]


def _worker_error(pool: Collection[BaseProcess]) -> OSError:
    wait([process.sentinel for process in pool], timeout=5)
    codes = ", ".join(str(process.exitcode) for process in pool if process.exitcode is not None)
    return OSError(
        f"a worker process died (exit code {codes}; -9 may mean that memory ran out); run the same command again to "
        "go on, with fewer --workers if it was memory"
    )


def _work(connection: Connection, function: Callable[[Any], Iterator[Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The other end of the connection is closed when the tasks are done or the parent was killed.
    with suppress(EOFError, ConnectionError):
        while True:
            task = connection.recv()
            try:
                for result in function(task):
                    connection.send(result)
                connection.send(None)
            except Exception as error:
                connection.send(error)


def _end_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL, so that no worker continues to write."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    parent.join()
    os._exit(1)
