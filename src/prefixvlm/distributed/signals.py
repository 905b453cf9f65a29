"""Signals that ask a run to stop: deferred while a step is computed, so that the run saves before it ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StoppedBySignal(SystemExit):
    """A signal ended the run; exit code 130 after Ctrl-C, 143 where somebody else asked."""

    def __init__(self, signum: int) -> None:
        super().__init__(130 if signum == signal.SIGINT else 143)
        self.signum = signum


class Signals:
    """Those that ask a run to stop; `defer`red while it trains, so that it saves first. A second one does not wait."""

    def __init__(self) -> None:
        self.asked, self.defer = 0, False

    def install(self) -> None:
        """Again wherever Lightning has put in its own: its handler of SIGTERM waits for the other ranks."""
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.asked, self.defer = 0, False
        self.install()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    def _handle(self, signum: int, frame: object) -> None:
        if not self.defer or self.asked:
            raise StoppedBySignal(signum)
        self.asked = signum


signals = Signals()  # a process has one set of handlers
