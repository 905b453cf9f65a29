"""Tasks go in; what some processes make of them comes out, in the order in which it is made."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST = 8


def default_workers() -> int:
    """The cores that this process may use, up to 8."""
    return min(MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def run(function: Callable[[T], Iterator[R]], tasks: Iterable[T], workers: int) -> Generator[R, None, None]:
    """Yields what function(task) yields, of all tasks. With one worker, in this process.

    Raises what `function` raises, and OSError if a worker dies. However it ends, no worker is left.
    Tasks are taken one by one, as workers are free for them.
    """
    if workers < 1:
        raise ValueError(f"the number of workers is {workers}; set --workers to 1 (in this process) or more")
    if workers == 1:
        for task in tasks:
            yield from function(task)
        return
    crew: dict[Connection, BaseProcess] = {}
    try:
        waiting = iter(tasks)
        for task in islice(waiting, workers):
            connection = _start(crew, function)
            connection.send(task)
        while crew:
            for connection in _ready(crew):
                result = connection.recv()
                if isinstance(result, Exception):
                    raise result
                if result is not None:
                    yield result
                elif following := list(islice(waiting, 1)):
                    connection.send(following[0])
                else:
                    connection.close()
                    crew.pop(connection).join()
    except (EOFError, ConnectionError) as error:
        raise _died(crew.values()) from error
    finally:
        for connection, process in crew.items():
            process.kill()
            process.join()
            connection.close()


def _start(crew: dict[Connection, BaseProcess], function: Callable[..., Any]) -> Connection:
    # Not forked from this process, which may have threads; the server that they are forked from starts once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", function.__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    crew[ours] = process
    return ours


def _ready(crew: dict[Connection, BaseProcess]) -> list[Connection]:
    return [each for each in wait(list(crew)) if isinstance(each, Connection)]


def _died(crew: Collection[BaseProcess]) -> OSError:
    wait([process.sentinel for process in crew], timeout=5)
    codes = ", ".join(str(process.exitcode) for process in crew if process.exitcode is not None)
    return OSError(
        f"a worker process died (exit code {codes}; -9 may mean that memory ran out); run the same command again to "
        "go on, with fewer --workers if it was memory"
    )


def _work(connection: Connection, function: Callable[[Any], Iterator[Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            for result in function(task):
                connection.send(result)
            connection.send(None)
        except Exception as error:
            connection.send(error)


def _end_with_parent() -> None:
    """However that ends: a worker whose parent was killed would go on writing."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    parent.join()
    os._exit(1)
