"""Makes compiled code run eagerly in the steps whose layers record."""

import weakref
from typing import Any

import torch

from ... import private_torch


class EagerSteps:
    """Switches `torch.compile` to eager execution for all of the process, and back when its owner ceases to exist.
    Copies begin switched off."""

    def __init__(self) -> None:
        self._undo: weakref.finalize | None = None

    def __reduce__(self) -> tuple:
        return EagerSteps, ()

    def switch(self, on: bool, owner: Any) -> None:
        """Switches on or off. Does nothing where nothing has been compiled."""
        if on == (self._undo is not None) or not private_torch.something_compiled():
            return
        if self._undo is not None:
            self._undo()
            self._undo = None
        else:
            if not _recording:
                _before.append(torch.compiler.set_stance("force_eager"))
            _recording.append(self)
            self._undo = weakref.finalize(owner, _ended, self)


_recording: list[EagerSteps] = []  # several Sparsifiers may share a model
_before: list[Any] = []  # goes back to the stance of the user


def _ended(steps: EagerSteps) -> None:
    _recording.remove(steps)
    if not _recording:
        _before.pop().__exit__(None, None, None)
