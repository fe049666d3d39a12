"""Programs: their configuration from files and the command line, and how they end."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader

from lineardiffusion.training import CheckpointError

T = TypeVar("T")

ADVICE = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EACCES: "choose another folder, or have its permissions changed",
    errno.EPERM: "choose another folder, or have its permissions changed",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "check the name",
}
"""What to do about errors of the system."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Descriptions with their lines as they are."""


def run_program(
    kind: type[T], description: str | None, work: Callable[[T], object], arguments: list[str] | None
) -> None:
    """Do the work of a program and print what comes of it; an error that is the user's ends it with the message.

    Arguments:
        kind, description, arguments: as `parse`.
        work: from the configuration to what is printed, or None.
    """
    config = parse(kind, description, arguments)
    try:
        result = work(config)
        if result is not None:
            print(result)
    except (ValueError, FloatingPointError, CheckpointError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        advice = ADVICE.get(getattr(cause, "errno", None))
        sys.exit(f"{Path(sys.argv[0]).name}: {error}" + (f"; {advice}" if advice else ""))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        _flush()


def _flush() -> None:
    """Write what is left to say. Where nobody reads it any more, the interpreter would end with a status of its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(kind: type[T], description: str | None, arguments: list[str] | None = None) -> T:
    """An object of a dataclass from the command line and the YAML files named there; a wrong value ends the program.

    Arguments:
        kind: the dataclass, whose docstring explains its fields.
        description: of the program.
        arguments: of the command line; those of this process by default.
    """
    set_loader("yaml without aliases", _load_yaml, exceptions=(yaml.YAMLError,))
    parser = ArgumentParser(
        description=description,
        formatter_class=_Help,
        usage="%(prog)s [--config FILE] [--FIELD VALUE …]",
        parser_mode="yaml without aliases",
    )
    parser.add_argument("--config", action="config", help="a YAML file with any of the fields below")
    parser.add_class_arguments(kind)
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
        del parsed["config"]
        return kind(**vars(parsed))
    except UnicodeDecodeError as error:
        sys.exit(f"{parser.prog}: config: expected a file of UTF-8 text ({error})")
    except ValueError as error:
        sys.exit(f"{parser.prog}: {error}")


def _load_yaml(text: str) -> Any:
    """YAML of bounded size: with aliases a few lines may stand for more than any memory holds."""
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise yaml.YAMLError("aliases (*name) are not read; write the value out")
        return get_loader("yaml")(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
