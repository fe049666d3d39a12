"""Kill a training at random moments, again and again, and compare it with one that was left alone.

    python tests/restarts.py --kills 20

Every life is ended by SIGKILL: in or between steps, while a checkpoint is written, or while Python still starts. At
the end the weights, their average and the optimizer's state must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lineardiffusion.training import Checkpoints

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
SETTINGS = {
    "data.channels": 1, "network.settings": "tiny", "optimization.batch_size": 16, "optimization.warmup": 10,
    "run.log_every": 1, "run.sample_every": 0, "run.progress": "false",
}  # fmt: skip


def command(folder: Path, **overrides: object) -> list[str]:
    """A short training of scikit-learn's digits; `run_steps=5` stands for --run.steps 5."""
    settings = {**SETTINGS, **{name.replace("_", ".", 1): value for name, value in overrides.items()}}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, str(ROOT / "examples" / "train.py"), f"--run.folder={folder}", *options]


def steps_done(folder: Path) -> int:
    """The last step in the history, which grows with every step."""
    history = folder / "history.jsonl"
    return history.read_text().count("\n") if history.exists() else 0


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of the history."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records]


def kill_randomly(arguments: list[str], folder: Path, chance: random.Random, most: float) -> bool:
    """Start it and kill it up to `most` seconds after its first step of this life, or now and then before; returns
    whether it was still running."""
    with subprocess.Popen(arguments, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        if chance.random() < 0.1:
            time.sleep(chance.uniform(0, 3))
        else:
            resumed_at = steps_done(folder)
            while process.poll() is None and steps_done(folder) <= resumed_at:
                resumed_at = min(resumed_at, steps_done(folder))  # lines after the checkpoint are dropped first
                time.sleep(0.01)
            time.sleep(chance.uniform(0, most))
        running = process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(errors.decode())
    return running


def compare(kills: int, steps: int, save_every: int, most: float = 1.0, seed: int = 0) -> list[int]:
    """Train with and without being killed; returns the steps at which it was.

    Raises:
        AssertionError: the results differ.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as base:
        alone, killed = Path(base) / "alone", Path(base) / "killed"
        lengths = {"run_steps": steps, "run_save_every": save_every}
        subprocess.run(command(alone, **lengths), check=True, capture_output=True, env=ONE_THREAD)
        moments: list[int] = []
        while len(moments) < kills:
            if not kill_randomly(command(killed, **lengths), killed, chance, most):
                raise RuntimeError(f"the run of {steps} steps ended after {len(moments)} of {kills} kills: too short")
            moments.append(steps_done(killed))
        subprocess.run(command(killed, **lengths), check=True, capture_output=True, env=ONE_THREAD)
        expected, found = Checkpoints(alone / "checkpoints").latest(), Checkpoints(killed / "checkpoints").latest()
        assert expected is not None
        assert found is not None
        assert expected.path.name == found.path.name == f"step-{steps:08d}.safetensors"
        assert expected.tensors.keys() == found.tensors.keys()
        for name, tensor in expected.tensors.items():
            assert torch.equal(tensor, found.tensors[name]), name
        assert losses(alone) == losses(killed)
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = compare(arguments.kills, arguments.steps, save_every=5, seed=arguments.seed)
    print(f"killed after the steps {moments}")
    print(f"bit-identical to a run left alone: weights, average, optimizer, losses of {arguments.steps} steps")


if __name__ == "__main__":
    main()
