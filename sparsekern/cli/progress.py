"""Progress of a run: a live bar on a terminal, plain lines elsewhere; and a clean stop on Ctrl-C."""

import importlib.util
import signal
import sys
import threading
from types import FrameType
from typing import Any

from .. import process


class Progress:
    """Context in which a run reports its steps and epochs.

    The first Ctrl-C takes effect at the next step, where no kernel, backward pass or file is half done; a second one at
    once.
    """

    def __init__(self, total: int, done: int, label: str, bar: bool = True) -> None:
        self._bar: Any = None
        self._stop = False
        self._previous: Any = None
        if bar and sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=label, unit="step", dynamic_ncols=True, leave=False)

    def __enter__(self) -> "Progress":
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in the background jobs of scripts
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if self._bar is not None:
            self._bar.close()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()
        self.check()

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed, be it before the first step, where a library that was being
        imported may have swallowed the exception."""
        if self._stop or process.interrupted:
            raise KeyboardInterrupt

    def line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)
