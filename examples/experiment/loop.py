"""The steps of a run, from wherever it begins to its end or to where it is stopped."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from examples.experiment.config import Config
from examples.experiment.data import Batch, FaultLimit, loader
from examples.experiment.devices import agreed
from examples.experiment.history import History
from examples.experiment.progress import Progress, say
from examples.experiment.resuming import Start
from examples.experiment.stopping import Interruption
from examples.experiment.watch import Watch
from lineardiffusion.pictures import grid, write_png
from lineardiffusion.training import CheckpointError, remove_partials

if TYPE_CHECKING:
    from examples.train import Trainer


def prepare_folder(config: Config) -> None:
    """What is in a run's folder beside its checkpoints, made ready by one process."""
    folder = config.run.folder
    for inside in (folder, folder / "checkpoints", folder / "samples"):
        remove_partials(inside)
    config.save(folder / "config.yaml")


class Loop:
    """Reads, steps, records, saves, draws.

    Whatever ends the steps, a checkpoint of the last one is written: also where images cannot be read any more. What
    a run can do without (records, pictures, trackers, a checkpoint that is not the last) only warns when it fails.

    Arguments:
        trainer: at the step where the run begins.
        start: where that is.
        interruption: whether the run is to stop.
        started: time.monotonic() from which on `run.max_hours` counts.
    """

    def __init__(self, trainer: Trainer, start: Start, interruption: Interruption, started: float) -> None:
        self.trainer, self.interruption, self.started = trainer, interruption, started
        self.accelerator, self.config, self.options = trainer.accelerator, trainer.config, trainer.config.run
        main = self.accelerator.is_main_process
        if main:
            announce(trainer, start)
        if self.options.tracker:
            self.accelerator.init_trackers("lineardiffusion", config={"run": json.dumps(self.config.to_dict())})
        self.history = History(self.options.folder / "history.jsonl", trainer.step) if main else None
        if self.history and start.changes:
            changes = {name: list(values) for name, values in start.changes.items()}
            self.history.add(step=trainer.step, resumed_with=changes)
        learning = self.config.optimization
        self.batches = loader(
            trainer.images, learning.batch_size, trainer.share(), trainer.step, learning.seed, self.options.workers
        )
        # PyTorch's handler would raise the death of a process that reads images in the middle of a step; without it
        # that comes to light where the next batch is waited for.
        self.child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
        self.faults = FaultLimit(self.config.data.max_corrupt)
        self.failure: Exception | None = None
        self.first = self.saved = trainer.step
        self.shown: float | None = None
        self.since = (time.monotonic(), trainer.step)
        self.watch = Watch(self.accelerator, self.options.timeout_minutes)
        self.progress = Progress(self.options.steps, trainer.step, self.options.progress and main)

    def run(self) -> bool:
        """Take the steps; returns whether all are done.

        Raises:
            Exception: what reading the images has raised.
            CheckpointError: the last checkpoint could not be written.
            FloatingPointError: a loss or gradient that is not finite.
        """
        try:
            self._run()
        finally:
            self.batches = iter(())
            end_readers()
            signal.signal(signal.SIGCHLD, self.child_handler)
        with dispensable("the end of the tracker"):
            self.accelerator.end_training()
        if self.failure is not None:
            raise self.failure
        step, steps = self.trainer.step, self.options.steps
        if step < steps and self.accelerator.is_main_process:
            why = f" ({self.interruption.came})" if self.interruption.came else ""
            say(f"stopped at step {step} of {steps}{why}; the same command goes on from there")
        return step >= steps

    def _run(self) -> None:
        trainer, options = self.trainer, self.options
        with self.watch, self.progress:
            while trainer.step < options.steps:
                batch = self._read()
                if batch is None:
                    break
                self._step(batch)
                if trainer.step % options.save_every == 0:
                    self._save()
                if options.sample_every and trainer.step % options.sample_every == 0:
                    self._draw()
            if self.saved != trainer.step or trainer.step == 0:
                self.watch.doing(f"writing the checkpoint of step {trainer.step}")
                trainer.save()

    def _read(self) -> Batch | None:
        """The next batch; None, in all processes, if the run is to end in any."""
        step = self.trainer.step
        self.watch.doing(f"reading the images of step {step}")
        batch = None
        try:
            batch = next(self.batches)
            self.faults.check(batch.faults)
        except Exception as error:
            self.failure = _explained(error)
        self.watch.doing(f"computing step {step}")
        hours = (time.monotonic() - self.started) / 3600
        late = self.options.max_hours is not None and hours > self.options.max_hours and step > self.first
        stop = self.failure is not None or self.interruption.came is not None or late
        return None if agreed(self.accelerator, stop) else batch

    def _step(self, batch: Batch) -> None:
        trainer = self.trainer
        trainer.optimizer.zero_grad()
        loss = float(trainer.backward(batch))
        if not math.isfinite(loss):
            trainer.preserve(batch, "the loss")
        norm = float(trainer.update())
        if not math.isfinite(norm):
            trainer.preserve(batch, "the gradient")
        self.shown = loss if self.shown is None else 0.98 * self.shown + 0.02 * loss
        self.progress.step()
        if trainer.step % self.options.log_every == 0:
            now, (since, since_step) = time.monotonic(), self.since
            self.since = (now, trainer.step)
            rate = self.config.optimization.batch_size * (trainer.step - since_step) / (now - since)
            self.progress.figures({"loss": f"{self.shown:.4f}", "images/s": f"{rate:.0f}"})
            record = {"loss": loss, "gradient_norm": norm, "images_per_second": round(rate, 2)}
            with dispensable(f"the record of step {trainer.step}"):
                if self.history:
                    self.history.add(step=trainer.step, **record)
                self.accelerator.log(record, step=trainer.step)

    def _save(self) -> None:
        step = self.trainer.step
        self.watch.doing(f"writing the checkpoint of step {step}")
        try:
            self.trainer.save()
            self.saved = step
        except CheckpointError as error:  # what is lost is nothing yet, and the space may come back
            again = step + self.options.save_every
            warnings.warn(f"{error}; training goes on, the next attempt is at step {again}", stacklevel=2)

    def _draw(self) -> None:
        """A grid of samples, in the run's folder and at the tracker; none if the run is to stop meanwhile."""
        step = self.trainer.step
        self.watch.doing(f"drawing the samples of step {step}")
        with dispensable(f"the samples of step {step}"):
            images = self.trainer.samples(stop=lambda: self.interruption.came is not None)
            if images is not None and self.accelerator.is_main_process:
                picture = grid(images)
                folder = self.options.folder / "samples"
                folder.mkdir(exist_ok=True)
                write_png(picture, folder / f"step-{step:08d}.png")
                for tracker in self.accelerator.trackers:
                    if tracker.name == "tensorboard":
                        tracker.log_images({"samples": picture[None]}, step=step, dataformats="NHWC")


def announce(trainer: Trainer, start: Start) -> None:
    """Say what begins, and what is different from here on."""
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    say(
        f"{trainer.process}: {parameters / 1e6:.1f} M parameters, {len(trainer.images)} images, "
        f"{trainer.accelerator.num_processes} processes; "
        + (f"resumed at step {trainer.step}" if trainer.step else "new")
    )
    for name, (there, here) in start.changes.items():
        say(f"from here on {name} is {here!r}, no longer {there!r}")


def end_readers() -> None:
    """End the processes that read images, those too that are stuck: they ignore the signal PyTorch would send them, and
    it would wait for them for ever."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


@contextlib.contextmanager
def dispensable(what: str) -> Iterator[None]:
    """What a run can do without: an error in it is a warning."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} failed ({type(error).__name__}: {error}); training goes on", stacklevel=4)


def _explained(error: Exception) -> Exception:
    """PyTorch's error for a process that reads images and was killed, with what to do; there is none of PyTorch's where
    it ends while a batch is on its way."""
    if isinstance(error, (ConnectionResetError, EOFError)):
        error = RuntimeError(f"DataLoader worker has ended before its batch was read ({error or 'no more data'})")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return ChildProcessError(f"run.workers: {error}; where memory is short, fewer of them need less")
    return error
