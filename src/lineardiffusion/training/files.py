"""Files that are there whole or not at all, and folders that one program has for itself."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from lineardiffusion._checks import check_kind

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # what file systems without locks answer


def check_path(path: object) -> None:
    """Raise unless this is a pathlib.Path."""
    check_kind(path, Path, "path", 'a pathlib.Path, such as Path("step-1.safetensors")')


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write a file to, which becomes `path` when it is written: synced to the disk, then renamed. After an
    error, which is passed on and names the file, `path` is as it was and nothing is beside it. What a process leaves
    that is killed meanwhile, `remove_partials` removes.

    The file behind the name is new and empty, never one that was there before, so that no link that somebody has put
    there is followed. Its permissions are those that the umask leaves.

    Examples:
        >>> import tempfile, lineardiffusion as ld
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "figures.json"
        >>> with ld.training.whole_file(path) as partial:
        ...     _ = partial.write_text("[1, 2]")
        >>> for file in path.parent.iterdir():
        ...     print(file.name)
        figures.json
    """
    check_path(path)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{_PARTIAL}")
    descriptor = -1
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        _try_lock(descriptor)  # for as long as it is being written: it is no leftover
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed while they wrote a `whole_file` have left in a folder; what another
    process is writing now stays. Where the file system has no locks everything stays."""
    for path in folder.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if path.is_symlink():
                path.unlink()
                continue
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _try_lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """A folder, made if it is not there, in which no other process gets past this as long as the context lasts. The
    system gives it free when the process ends, however it does. Where the file system has no locks a warning says so.

    Raises:
        BlockingIOError: another process has it; the message names the folder and that process.
        NotADirectoryError: there is something else of that name.

    Examples:
        >>> import tempfile, lineardiffusion as ld
        >>> from pathlib import Path
        >>> with ld.training.locked_folder(Path(tempfile.mkdtemp()) / "run"):
        ...     pass
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder}: expected a folder, got a file of that name, or on the way to it"
        ) from error
    path = folder / ".lock"
    descriptor = _lock_file(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before it is free: whoever waits for it sees that it is not the file of this name any more
        os.close(descriptor)


def _lock_file(path: Path) -> int:
    """A descriptor of the file, locked. Unlike that of `_try_lock`, the lock is this process's alone: workers that were
    forked and outlive it for a moment do not hold it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                warnings.warn(f"{path.parent}: the file system has no locks; start no second program", stacklevel=4)
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise BlockingIOError(
                f"{path.parent}: in use by {holder}; wait until it has ended, stop it, or choose another folder"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the holder before has removed it meanwhile


def _try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process has it, or where that cannot be known."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
