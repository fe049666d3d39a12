"""Ends of a program that come from outside: noticed, so that what was done can be kept."""

from __future__ import annotations

import os
import signal
from types import FrameType

STOPPED = 75
"""Exit status of a run that was stopped before its end and goes on with the same command: sysexits' EX_TEMPFAIL."""

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]
"""What schedulers, shells and launchers end programs with, those that the system has."""


class Interruption:
    """Notices `SIGNALS`, so that a step can be finished and a checkpoint written. However many come, and whatever is
    going on, they do no more than that: launchers pass signals on that the whole group had already, and `timeout` sends
    two. SIGQUIT (Ctrl-\\) and SIGKILL still end the program at once. A SIGHUP that is ignored, by nohup, stays ignored.

    That torchrun has ended counts too: it leaves its processes alone where a signal kills it.
    """

    def __init__(self) -> None:
        self._came: str | None = None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    @property
    def came(self) -> str | None:
        """Why to stop: the first signal, by name; None if there is no reason."""
        if self._came is None and self._launcher not in (None, os.getppid()):
            self._came = "torchrun has ended"
        return self._came

    def __enter__(self) -> Interruption:
        hung_up = getattr(signal, "SIGHUP", None)
        noticed = [number for number in SIGNALS if number != hung_up or signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in noticed}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = self._came or signal.Signals(number).name


def ignore_signals() -> None:
    """Have this process ignore `SIGNALS`: one that reads images for another gets those of the group too, and ends with
    the process that it works for."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
