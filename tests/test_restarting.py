"""Runs that go on, or begin with the weights of another; what ends a run and what does not."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from examples import train
from examples.experiment import loop, watch
from examples.experiment.config import Config
from examples.experiment.history import History
from examples.experiment.program import run_program
from examples.experiment.progress import Progress
from examples.experiment.stopping import Interruption
from torch.utils.data._utils import signal_handling

import restarts
from lineardiffusion.training import Checkpoints
from test_train import ROOT, make


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the settings of a process's first Accelerator."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def images(tmp_path):
    """An array of nine images with two classes."""
    path = tmp_path / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 8), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(9) % 2)
    return path


def newest(folder):
    return Checkpoints(folder / "checkpoints").latest()


# ---------------------------------------------------------------------- what may change, and what may not


def test_the_same_images_may_lie_elsewhere_and_be_spelt_otherwise(tmp_path, images):
    data = {"source": str(images), "size": 8, "labels": True}
    whole = train.train(make(tmp_path / "whole", 4, data=data))
    run = train.train(make(tmp_path / "run", 2, data=data))
    moved = tmp_path / "elsewhere" / "same.npz"
    moved.parent.mkdir()
    shutil.move(images, moved)
    others = {"source": f"{moved.parent}/../elsewhere/same.npz", "size": (8, 8), "labels": True, "max_corrupt": 99}
    train.train(make(run, 4, data=others))
    expected, found = newest(whole).tensors, newest(run).tensors
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("change", ["a pixel", "a label", "the order", "the size"])
def test_other_images_are_refused(tmp_path, images, change):
    run = train.train(make(tmp_path / "run", 2, data={"source": str(images)}))
    with np.load(images) as arrays:
        pixels, labels = arrays["images"], arrays["labels"]
    if change == "a pixel":
        pixels[3, 0, 0] ^= 1
    elif change == "a label":
        labels[3] ^= 1
    elif change == "the order":
        pixels, labels = pixels[::-1], labels[::-1]
    np.savez(images, images=pixels, labels=labels)
    config = make(run, 4, data={"source": str(images), "size": 16 if change == "the size" else None})
    message = (
        "data.size.*of shape" if change == "the size" else "the images, their order or their classes are not those"
    )
    with pytest.raises(ValueError, match=message):
        train.train(config)


def test_learning_rate_and_seed_change_on_request(tmp_path):
    run = train.train(make(tmp_path / "run", 2))
    other = {"learning_rate": 5e-4, "seed": 1}
    ask = r"--run.resume_with '\[optimization.learning_rate, optimization.seed\]'"
    with pytest.raises(ValueError, match=ask):
        train.train(make(run, 4, optimization=other))
    allowed = {"resume_with": ["optimization.learning_rate", "optimization.seed"]}
    train.train(make(run, 4, optimization=other, run=allowed))
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert records[2] == {
        "step": 2, "resumed_with": {"optimization.learning_rate": [1e-4, 5e-4], "optimization.seed": [0, 1]}
    }  # fmt: skip
    assert [record["step"] for record in records] == [1, 2, 2, 3, 4]
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert (kept["optimization"]["learning_rate"], kept["run"]["resume_with"]) == (5e-4, [])
    train.train(make(run, 5, optimization=other))  # what it is now needs no asking
    with pytest.raises(ValueError, match=r"learning_rate: 0\.0005 there, 0\.0001 here"):
        train.train(make(run, 6, optimization={"seed": 1}))


def test_a_loss_that_is_not_finite_tells_the_way_on(tmp_path, monkeypatch):
    backward = train.Trainer.backward
    poisoned = lambda self, batch: backward(self, batch) * (np.nan if self.step == 3 else 1)  # noqa: E731
    monkeypatch.setattr(train.Trainer, "backward", poisoned)
    with pytest.raises(FloatingPointError, match=r"not finite in step 3 .*--run.resume_with '\[optimization.learning"):
        train.train(make(tmp_path, 5))
    monkeypatch.undo()
    other = {"optimization": {"seed": 7}, "run": {"resume_with": ["optimization.seed"]}}
    train.train(make(tmp_path, 5, **other))
    assert newest(tmp_path).metadata["step"] == 5


# ---------------------------------------------------------------------- weights of another run


def test_a_run_begins_with_the_average_of_another(tmp_path):
    first = train.train(make(tmp_path / "first", 3, optimization={"learning_rate": 1e-2, "warmup": 0}))
    path = newest(first).path
    weights = {"weights": path}
    begun = train.train(make(tmp_path / "second", 0, network=weights))
    average = newest(first).section("ema")
    assert not torch.equal(average["out.2.weight"], newest(first).section("model")["out.2.weight"])
    for section in ("model", "ema"):
        assert all(torch.equal(tensor, average[name]) for name, tensor in newest(begun).section(section).items())
    shutil.copy(path, tmp_path / "copy.safetensors")  # the contents count, not the name
    train.train(make(begun, 1, network={"weights": tmp_path / "copy.safetensors"}))
    own = {"weights": newest(begun).path}
    train.train(make(begun, 2, network=own))  # nor those of the run itself
    shutil.rmtree(first)
    train.train(make(begun, 3, network=weights))  # which are not needed any more
    train.train(make(begun, 4))
    assert newest(begun).metadata["step"] == 4
    other = train.train(make(tmp_path / "other", 1))
    with pytest.raises(ValueError, match=r"network.weights: the run in .* began with other weights"):
        train.train(make(begun, 5, network={"weights": newest(other).path}))
    with pytest.raises(ValueError, match=r"network.weights: the run in .* began with random weights"):
        train.train(make(other, 5, network={"weights": newest(begun).path}))


def test_weights_that_stood_for_something_else_warn(tmp_path, images):
    first = newest(train.train(make(tmp_path / "first", 1, data={"source": str(images), "labels": True})))
    with np.load(images) as arrays:
        np.savez(tmp_path / "other.npz", images=arrays["images"], labels=arrays["labels"] + 5)
    other = {
        "data": {"source": str(tmp_path / "other.npz"), "labels": True},
        "process": {"family": "ddpm", "prediction": "noise"},
        "network": {"weights": first.path},
    }
    with pytest.warns(UserWarning, match=r"network.weights: they were trained with") as warned:
        train.train(make(tmp_path / "second", 1, **other))
    told = " ".join(str(warning.message) for warning in warned)
    assert "trained with process.prediction = clean, which is noise here" in told
    assert "trained with the classes ['0', '1'], which are ['5', '6'] here" in told


def test_weights_that_do_not_fit(tmp_path):
    first = train.train(make(tmp_path / "first", 1))
    weights = {"weights": newest(first).path}
    with pytest.raises(ValueError, match=r"network.weights: .*step-00000001.safetensors: expected shape .*, got"):
        train.train(make(tmp_path / "wide", 1, network={**weights, "overrides": {"model_channels": 32}}))
    with pytest.raises(ValueError, match=r"network.weights: .*missing \['label_emb.weight'\]"):
        train.train(make(tmp_path / "labels", 1, network=weights, data={"labels": True}))
    with pytest.raises(ValueError, match=r"network.weights: expected a .pt file or .*nothing.pt: no such file"):
        train.train(make(tmp_path / "none", 1, network={"weights": tmp_path / "nothing.pt"}))
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(ValueError, match="no such file"):
        train.train(make(tmp_path / "none", 1, network={"weights": tmp_path / "pipe.pt"}))


# ---------------------------------------------------------------------- what ends a run, and what does not


def test_lines_of_the_history_that_cannot_be_read_are_dropped(tmp_path):
    train.train(make(tmp_path, 4))
    history = tmp_path / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    bad = [b"garbage\n", b"[1]\n", b'{"loss": 1}\n', b'{"step": "x"}\n', b"\xff\xfe\n", b'{"step": 4, "lo']
    history.write_bytes(b"".join([lines[0], *bad[:5], *lines[1:], bad[5]]))
    with pytest.warns(UserWarning, match=r"history.jsonl: dropped 6 lines \(2, 3, 4, 5, 6, …\), which cannot be read"):
        train.train(make(tmp_path, 5))
    assert [step for step, _ in restarts.losses(tmp_path)] == [1, 2, 3, 4, 5]


def test_half_a_record_is_taken_back(tmp_path, monkeypatch):
    history = History(tmp_path / "history.jsonl", 0)
    history.add(step=1)

    class Short(io.FileIO):
        def write(self, data):
            return super().write(data[:5])

    monkeypatch.setattr("builtins.open", lambda path, mode, buffering: Short(path, "ab"))
    with pytest.raises(OSError, match=r"history.jsonl: no space for another record"):
        history.add(step=2)
    monkeypatch.undo()
    history.add(step=2)
    assert (tmp_path / "history.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_history_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "history.jsonl")
    with pytest.raises(OSError, match=r"history.jsonl: expected a file"):
        train.train(make(tmp_path, 1))


def test_records_and_pictures_that_cannot_be_written_only_warn(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "write_png", full)
    monkeypatch.setattr(History, "add", full)
    with pytest.warns(UserWarning, match="failed .*No space left on device.*; training goes on") as warned:
        train.train(make(tmp_path, 3, run={"sample_every": 2, "sample_steps": 3}))
    told = [str(warning.message) for warning in warned]
    assert any(text.startswith("the samples of step 2 failed") for text in told)
    assert any(text.startswith("the record of step 3 failed") for text in told)
    assert newest(tmp_path).metadata["step"] == 3


def test_images_that_cannot_be_read_end_it_with_a_checkpoint(tmp_path, monkeypatch):
    def check(self, faults):
        self.batches = getattr(self, "batches", 0) + 1
        if self.batches == 4:
            raise ValueError("12 images cannot be read")

    monkeypatch.setattr(loop.FaultLimit, "check", check)
    with pytest.raises(ValueError, match="12 images cannot be read"):
        train.train(make(tmp_path, 9, run={"save_every": 100}))
    assert newest(tmp_path).metadata["step"] == 3


@pytest.mark.long
def test_a_process_that_reads_images_and_is_killed_ends_it_with_a_checkpoint(tmp_path):
    arguments = restarts.command(tmp_path, run_steps=100_000, run_save_every=100_000, run_workers=2)
    with restarts.started(arguments, stdout=subprocess.PIPE, start_new_session=True) as process:
        while process.poll() is None and restarts.steps_done(tmp_path) < 2:
            time.sleep(0.05)
        os.kill(max(restarts.members(process.pid)), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run.workers: DataLoader worker" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert newest(tmp_path).metadata["step"] == restarts.steps_done(tmp_path)


def test_no_death_of_a_process_that_reads_images_comes_up_within_a_step(tmp_path, monkeypatch):
    """PyTorch's handler would raise it wherever the run just is."""
    step, handlers = loop.Loop._step, []

    def watched(self, batch):
        handlers.append(signal.getsignal(signal.SIGCHLD))
        step(self, batch)

    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # as in a process that has read nothing yet
    monkeypatch.setattr(loop.Loop, "_step", watched)
    train.train(make(tmp_path, 2, run={"workers": 1}))
    assert handlers == [signal.SIG_DFL] * 2


def test_a_signal_while_a_picture_is_drawn(tmp_path):
    """The run does not wait for the picture."""
    trainer, asked = train.Trainer(make(tmp_path, 1, run={"sample_steps": 1000})), []
    assert trainer.samples(2, stop=lambda: asked.append(1) or len(asked) == 3) is None
    assert len(asked) == 3


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(SystemExit, match="expected a folder, got a file"):
            train.main([f"--run.folder={folder}"])


def test_a_second_program_in_a_folder_is_refused(tmp_path):
    holder = "import sys, pathlib, lineardiffusion as ld\nwith ld.training.locked_folder(pathlib.Path(sys.argv[1])):\n"
    holder += "    print('held', flush=True)\n    sys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(SystemExit, match=rf"{tmp_path}: in use by process {process.pid} on .*; wait until"):
            train.main([f"--run.folder={tmp_path}"])
        process.kill()
    train.train(make(tmp_path, 1))  # given free by its death
    assert not (tmp_path / ".lock").exists()


def test_errors_of_the_system_say_what_to_do(monkeypatch):
    def work(config):
        raise OSError(28, "No space left on device", "runs/x/config.yaml")

    with pytest.raises(SystemExit, match=r"No space left on device: 'runs/x/config.yaml'; free some space"):
        run_program(Config, None, work, [])


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text="", *_):
            raise BrokenPipeError(32, "Broken pipe")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    with Progress(10, 0, shown=True) as progress:
        for _ in range(3):
            progress.step()
    monkeypatch.setattr(sys, "stdout", Gone())
    loop.say("nothing")


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.came is None
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR2)
            assert interruption.came == "SIGUSR2"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_end_of_torchrun_is_noticed(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(os, "getppid", lambda: 2)  # not 1, which it is of tests that outlive their shell
    interruption = Interruption()
    assert interruption.came is None
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert interruption.came == "torchrun has ended"


@pytest.mark.long
def test_torchrun_passes_sigterm_on(tmp_path):
    arguments = restarts.command(tmp_path, run_steps=100_000, run_save_every=100_000)[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    with restarts.started([*launcher, *arguments], env=environment, stdout=subprocess.PIPE, cwd=ROOT) as process:
        while process.poll() is None and restarts.steps_done(tmp_path) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped at step" in output.decode()
    assert newest(tmp_path).metadata["step"] == restarts.steps_done(tmp_path)
    assert not restarts.leftovers(tmp_path)


def test_a_process_that_does_not_answer_is_named(monkeypatch, capsys):
    """Process 0 of two, with a second one that said something once."""
    ended = threading.Event()

    def leave(status):
        ended.set()
        watched._ended.wait()  # as far as a thread can end the process

    monkeypatch.setattr(watch.os, "_exit", leave)
    monkeypatch.setattr(watch, "broadcast_object_list", lambda objects: objects)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    watched = watch.Watch(SimpleNamespace(process_index=0, num_processes=2), minutes=0.005)
    with watched:
        watched._store.set("1", json.dumps(["elsewhere, process id 7", "reading the images of step 3", 5]))
        watched.doing("computing step 3")
        assert ended.wait(20)
    told = capsys.readouterr().err
    assert "have not come on for 0.005 minutes (run.timeout_minutes)" in told
    assert "process 1 (elsewhere, process id 7): reading the images of step 3, DOES NOT ANSWER" in told
    assert told.count("DOES NOT ANSWER") == 1
