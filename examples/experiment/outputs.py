"""Files that a program is to write its result to, tried before there is one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_writable(path: Path) -> None:
    """That a file can be written there.

    Raises:
        ValueError: naming what is in the way.
    """
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ValueError(f"output: expected a file, got {path}, which is something else")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"output: {path} cannot be written ({error}); make its folder, or name another") from error
