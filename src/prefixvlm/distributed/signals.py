"""Signals that stop a run, deferred until the current training step is saved."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE = 3.0  # seconds
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # SIGUSR1: SLURM's --signal, before the time limit


class StoppedBySignal(SystemExit):
    """Exit because of a signal, with code 130 after Ctrl-C and 143 after the others.

    Lightning's SIGTERMException exits with code 0, which sweeps and schedulers take for success.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(exit_code(signum))
        self.signum = signum


def exit_code(signum: int) -> int:
    return 130 if signum == signal.SIGINT else 143


def exit_on_signals() -> None:
    """Exit at once and quietly on SIGNALS, until other handlers are installed: while modules are imported, say."""
    # Python's own handler of Ctrl-C would print where in the imports it was, or be ignored by a library.
    for signum in SIGNALS:
        signal.signal(signum, lambda number, frame: os._exit(exit_code(number)))


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Exit at once and quietly on SIGNALS within a block."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    exit_on_signals()
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Signals:
    """Handles SIGNALS by raising StoppedBySignal, or by setting `pending` while `defer` is set.

    A second signal raises at once. Where the main thread waits in native code, as for ranks that were never started,
    no handler of Python's can run: a thread then ends the process, unless `defer` is set.
    """

    def __init__(self) -> None:
        self.pending, self.defer = 0, False
        self.inbox: socket.socket | None = None

    def install(self) -> None:
        """Install the handlers, in the main thread only; again where Lightning has replaced them."""
        # Lightning's own handler of SIGTERM waits for the other ranks.
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers for a block."""
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.pending, self.defer = 0, False
        self.install()
        is_main = threading.current_thread() is threading.main_thread()
        self.inbox, outbox = socket.socketpair()
        outbox.setblocking(False)
        former = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False) if is_main else -1
        threading.Thread(target=self._watch, args=(self.inbox,), daemon=True).start()
        try:
            yield
        finally:
            if is_main:
                signal.set_wakeup_fd(former)
                for signum, handler in before.items():
                    signal.signal(signum, handler)
            outbox.close()  # ends the thread

    def _watch(self, inbox: socket.socket) -> None:
        """Exit if the number of one of SIGNALS stays in the inbox, from which the handler takes what it handles."""
        with inbox:
            while number := inbox.recv(1, socket.MSG_PEEK):
                if number[0] in SIGNALS:
                    time.sleep(GRACE)
                    if self._take(inbox, socket.MSG_PEEK) == number and not self.defer:
                        os._exit(exit_code(number[0]))
                else:
                    self._take(inbox)  # another handler's

    @staticmethod
    def _take(inbox: socket.socket, flags: int = 0) -> bytes:
        """Return the first number of the inbox, b"" if there is none or the block has ended."""
        with suppress(OSError):
            return inbox.recv(1, socket.MSG_DONTWAIT | flags)
        return b""

    def _handle(self, signum: int, frame: object) -> None:
        while self.inbox and self._take(self.inbox):
            pass
        if not self.defer or self.pending:
            raise StoppedBySignal(signum)
        self.pending = signum


signals = Signals()  # a process has one set of handlers
