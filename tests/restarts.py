"""End a training at random moments, again and again, and compare it with one that was left alone.

    python tests/restarts.py --kills 40

Every life is ended by one of `SIGNALS`, sent to the process or to its group, once or twice, the second at once or when
the last checkpoint is being written: in or between steps, or while Python still starts, with and without processes that
read images. After all but SIGKILL there must be a checkpoint of the last step, the exit status 75, and nothing left
behind. At the end the weights, their average and the optimizer's state must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from lineardiffusion.training import Checkpoints

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SETTINGS = {
    "data.channels": 1, "network.settings": "tiny", "optimization.batch_size": 16, "optimization.warmup": 10,
    "run.log_every": 1, "run.sample_every": 0, "run.progress": "false",
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STOPPED = 75


@dataclasses.dataclass
class Attack:
    """How a life is ended.

    Args:
        number: the signal.
        group: whether all processes get it.
        second: when it comes again: never, at once, or when the last checkpoint is being written.
        delay: seconds after the first step of this life; before it, seconds after the start where they are negative.
        workers: processes that read images.
    """

    number: signal.Signals
    group: bool = False
    second: str = "never"
    delay: float = 0.0
    workers: int = 0

    def __str__(self) -> str:
        second = {"never": "", "at once": ", twice", "saving": ", again in the save"}[self.second]
        return f"{self.number.name} to the {'group' if self.group else 'process'}{second}, {self.workers} workers"


def draw_attack(chance: random.Random, most: float) -> Attack:
    """One up to `most` seconds after the first step, or now and then before it."""
    early = chance.random() < 0.1
    return Attack(
        chance.choice(SIGNALS),
        group=chance.random() < 0.5,
        second=chance.choice(["never", "at once", "saving"]),
        delay=-chance.uniform(0, 3) if early else chance.uniform(0, most),
        workers=chance.choice([0, 2]),
    )


def command(folder: Path, **overrides: object) -> list[str]:
    """A short training of scikit-learn's digits; `run_steps=5` stands for --run.steps 5."""
    settings = {**SETTINGS, **{name.replace("_", ".", 1): value for name, value in overrides.items()}}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, str(ROOT / "examples" / "train.py"), f"--run.folder={folder}", *options]


@contextlib.contextmanager
def started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that hears all of `SIGNALS`, also where nohup or a shell's & makes its parent ignore some, and that
    does not outlive the block: a test that fails in it would wait for its end."""

    def hear() -> None:
        for name in (signal.SIGINT, signal.SIGHUP):
            signal.signal(name, signal.SIG_DFL)

    with subprocess.Popen(arguments, stderr=subprocess.PIPE, preexec_fn=hear, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def steps_done(folder: Path) -> int:
    """The last step in the history, which grows with every step."""
    history = folder / "history.jsonl"
    return history.read_text().count("\n") if history.exists() else 0


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of the history."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def leftovers(folder: Path) -> list[str]:
    """Files that only a process that is gone, or still there, can have left."""
    return [
        str(path) for path in folder.rglob("*") if path.name == ".lock" or "partial" in path.name or "tmp" in path.name
    ]


def members(group: int) -> list[int]:
    """The processes of a group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            found += [int(path.parent.name)] if int(its_group) == group and state != "Z" else []
    return found


def attack(arguments: list[str], folder: Path, how: Attack) -> int | None:
    """Start it and end it so; returns its group, or None if it was not running any more.

    Raises:
        AssertionError: what must hold after a signal that can be noticed does not.
    """
    arguments = [*arguments, f"--run.workers={how.workers}"]
    began = steps_done(folder)
    with started(arguments, env=ONE_THREAD, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        if how.delay < 0:
            time.sleep(-how.delay)
        else:
            while process.poll() is None and steps_done(folder) <= began:
                began = min(began, steps_done(folder))  # lines after the checkpoint are dropped first
                time.sleep(0.01)
            time.sleep(how.delay)
        running = process.poll() is None
        send(process, how)
        if how.second == "at once":
            send(process, how)
        elif how.second == "saving":
            while process.poll() is None and not list((folder / "checkpoints").glob("*.partial")):
                time.sleep(0.0005)
            send(process, how)
        _, errors = process.communicate(timeout=120)
        status = process.returncode
    if not running or status == 0:
        assert status == 0, errors.decode()
        return None
    if how.number == signal.SIGKILL or (how.delay < 0 and status in (-how.number, 128 + how.number)):
        assert status in (-how.number, 128 + how.number), errors.decode()
        return process.pid  # nothing was noticed, or nothing had begun
    assert status == STOPPED, f"{how}: exit status {status}\n{errors.decode()}"
    newest = Checkpoints(folder / "checkpoints").latest()
    assert newest is not None, how
    assert newest.metadata["step"] == steps_done(folder), how
    assert not leftovers(folder), (how, leftovers(folder))
    return process.pid


def send(process: subprocess.Popen[bytes], how: Attack) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how.number) if how.group else process.send_signal(how.number)


def compare(attacks: Iterable[Attack], steps: int, save_every: int) -> list[int]:
    """Train with and without being ended so; returns the steps at which it was.

    Raises:
        AssertionError: the results differ, or what must hold after a signal does not.
    """
    with tempfile.TemporaryDirectory() as base:
        alone, killed = Path(base) / "alone", Path(base) / "killed"
        lengths = {"run_steps": steps, "run_save_every": save_every}
        subprocess.run(command(alone, **lengths), check=True, capture_output=True, env=ONE_THREAD)
        ends, groups = [], []
        for how in attacks:
            group = attack(command(killed, **lengths), killed, how)
            if group is None:
                raise RuntimeError(f"the run of {steps} steps ended after {len(ends)} kills: too short")
            ends.append(steps_done(killed))
            groups.append(group)
        subprocess.run(command(killed, **lengths), check=True, capture_output=True, env=ONE_THREAD)
        assert not leftovers(killed)
        expected, found = Checkpoints(alone / "checkpoints").latest(), Checkpoints(killed / "checkpoints").latest()
        assert expected is not None
        assert found is not None
        assert expected.path.name == found.path.name == f"step-{steps:08d}.safetensors"
        assert expected.tensors.keys() == found.tensors.keys()
        for name, tensor in expected.tensors.items():
            assert torch.equal(tensor, found.tensors[name]), name
        assert losses(alone) == losses(killed)
        assert not any(members(group) for group in groups), "processes that read images have outlived theirs"
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    attacks = [draw_attack(chance, most=1.0) for _ in range(arguments.kills)]
    print(f"ended after the steps {compare(attacks, arguments.steps, save_every=5)}:")
    for how, count in sorted(collections.Counter(map(str, attacks)).items()):
        print(f"    {count} × {how}")
    print(f"bit-identical to a run left alone: weights, average, optimizer, losses of {arguments.steps} steps")


if __name__ == "__main__":
    main()
