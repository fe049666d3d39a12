"""history.jsonl: what a run records as it goes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from lineardiffusion.training import whole_file


class History:
    """A file with a line of JSON for each record.

    Arguments:
        path: the file. Records after the step, which are taken again, are dropped; so are lines that cannot be read,
            with a warning.
        step: that a run goes on from.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if not path.exists():
            return
        if not path.is_file():
            raise OSError(f"{path}: expected a file, got a folder, a pipe or a device; move it away")
        lines = path.read_bytes().splitlines(keepends=True)
        steps = [_step(line) for line in lines]
        damaged = [number for number, there in enumerate(steps, start=1) if there is None]
        if damaged:
            warnings.warn(f"{path}: dropped {_listed(damaged)}, which cannot be read as records", stacklevel=2)
        kept = [line for line, there in zip(lines, steps, strict=True) if there is not None and there <= step]
        with whole_file(path) as partial:
            partial.write_bytes(b"".join(kept))

    def add(self, **record: Any) -> None:
        """Append a record.

        Raises:
            OSError: it could not be written; the file is as it was.
        """
        line = (json.dumps(record) + "\n").encode()
        with open(self._path, "ab", buffering=0) as file:
            before = file.seek(0, 2)
            try:
                written = file.write(line)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from error
            if written != len(line):  # the disk is full: half a record would spoil the next one
                file.truncate(before)
                raise OSError(f"{self._path}: no space for another record")


def _step(line: bytes) -> int | None:
    """The step of a record; None for what is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) and line.endswith(b"\n") else None
    return step if isinstance(step, int) else None


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"line {shown}" if len(numbers) == 1 else f"{len(numbers)} lines ({shown}{', …' * (len(numbers) > 5)})"
