"""What a run says while it goes, to a terminal that may go away."""

from __future__ import annotations

import contextlib
import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Print a line; a closed terminal or pipe, or a full disk behind it, is no reason to end."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


class Progress:
    """A bar over the steps of a run. Like `say`, it goes silent where it cannot be written.

    Arguments:
        total, done: steps in all, and those that are taken already.
        shown: whether there is a bar.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self._bar = tqdm(total=total, initial=done, desc="training", unit="step", disable=True)
        if shown and sys.stderr is not None:
            with contextlib.suppress(OSError):
                self._bar = tqdm(total=total, initial=done, desc="training", unit="step")

    def step(self) -> None:
        try:
            self._bar.update()
        except OSError:
            self._bar.disable = True

    def figures(self, figures: dict[str, str]) -> None:
        """Values beside the bar, shown with the next step."""
        self._bar.set_postfix(figures, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):
            self._bar.close()
