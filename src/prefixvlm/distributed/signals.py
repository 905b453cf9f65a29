"""Signals that stop a run, deferred until the current training step is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # SIGUSR1: SLURM's --signal, before the time limit


class StoppedBySignal(SystemExit):
    """Exit because of a signal, with code 130 after Ctrl-C and 143 after the others.

    Lightning's SIGTERMException exits with code 0, which sweeps and schedulers take for success.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(130 if signum == signal.SIGINT else 143)
        self.signum = signum


class Signals:
    """Handles SIGNALS by raising StoppedBySignal, or by setting `pending` while `defer` is set.

    A second signal raises at once.
    """

    def __init__(self) -> None:
        self.pending, self.defer = 0, False

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
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    def _handle(self, signum: int, frame: object) -> None:
        if not self.defer or self.pending:
            raise StoppedBySignal(signum)
        self.pending = signum


signals = Signals()  # a process has one set of handlers
