"""Averages, checkpoints and keyed randomness."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion import training
from lineardiffusion.training import CheckpointError, Checkpoints, read_checkpoint, write_checkpoint


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.SiLU(), torch.nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, {"model:w": torch.full((5, 7), float(step))}, {"step": step})
    return checkpoints


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


# ---------------------------------------------------------------------- keys


def test_keys_decide_and_their_order_and_type_count():
    def draw(*keys: int | str) -> float:
        return float(torch.rand((), generator=training.keyed_generator(*keys), dtype=torch.float64))

    assert draw(0, "t", 5) == draw(0, "t", 5)
    assert len({draw(*keys) for keys in [(0, 5), (5, 0), ("0", 5), (0, "5"), (0,), (5,), (0, 5, 0)]}) == 7


def test_keyed_noise_is_white():
    """Means and products of neighbouring keys: 4096 draws each, five standard errors."""
    draws = torch.stack([torch.randn(2, generator=training.keyed_generator(0, k)) for k in range(4097)]).double()
    bound = 5 / 4096**0.5
    assert draws.mean(0).abs().max() < bound
    assert (draws.square().mean(0) - 1).abs().max() < bound * 2**0.5
    assert (draws[1:] * draws[:-1]).mean(0).abs().max() < bound


# ---------------------------------------------------------------------- average


def test_average_is_the_recursion_of_its_docstring(model):
    average = ld.training.ExponentialMovingAverage(model, decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = [p.detach().double() for p in model.parameters()]
    for n in range(1, 12):
        step(model, optimizer, n)
        average.update(model)
        beta = min(0.5, (1 + n) / (10 + n))
        current = [p.detach().double() for p in model.parameters()]
        expected = [beta * e + (1 - beta) * p for e, p in zip(expected, current, strict=True)]
    for value, e in zip(average.parameters.values(), expected, strict=True):
        torch.testing.assert_close(value.double(), e, rtol=12 * 4 * 2**-24, atol=12 * 4 * 2**-24)


def test_applied_average_goes_away_again_even_after_an_error(model):
    average = ld.training.ExponentialMovingAverage(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for value in average.parameters.values():
        value.zero_()
    with contextlib.suppress(KeyboardInterrupt), average.applied_to(model):
        assert all(not p.any() for p in model.parameters())
        raise KeyboardInterrupt
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_bad_decay(model):
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), got 1"):
        ld.training.ExponentialMovingAverage(model, decay=1)


# ---------------------------------------------------------------------- optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_a_restored_optimizer_takes_the_same_steps(model, kind, tmp_path):
    import copy

    optimizer = kind(model.parameters(), lr=1e-2)
    model[2].requires_grad_(False)  # never gets a gradient, so never a state
    for seed in range(3):
        step(model, optimizer, seed)
    write_checkpoint(tmp_path / "c.safetensors", training.optimizer_tensors(optimizer, model), {})
    other = copy.deepcopy(model)
    fresh = kind(other.parameters(), lr=1e-2)
    step(other, fresh, 99)  # a state that must not stay
    with torch.no_grad():
        for p, q in zip(other.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    training.restore_optimizer(read_checkpoint(tmp_path / "c.safetensors").tensors, fresh, other)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, fresh, seed)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_bad_names_and_shapes_are_named(model):
    tensors = training.state_tensors(model.state_dict())
    others = {"other" if name == "0.weight" else name: value for name, value in tensors.items()}
    with pytest.raises(ValueError, match=r"weights: .* missing \['0.weight'\], unknown \['other'\]"):
        training.restore_tensors(others, model.state_dict(), "weights")
    with pytest.raises(ValueError, match=r"weights: expected shape \(4, 3\) for 0.weight, got \(1,\)"):
        training.restore_tensors({**tensors, "0.weight": torch.zeros(1)}, model.state_dict(), "weights")
    with pytest.raises(ValueError, match=r"parameters of the model, got one of '9\.weight'"):
        training.restore_optimizer({"9.weight/exp_avg": torch.zeros(1)}, torch.optim.AdamW(model.parameters()), model)


def test_the_tensors_of_a_denoiser_go_into_no_other(tmp_path):
    """Which it is goes through the file with its weights; of "noise" and "clean" even the lengths are equal."""

    def denoiser(prediction: str, num_steps: int = 10) -> ld.Denoiser:
        torch.manual_seed(len(prediction))
        process = ld.DDPM((1, 8), num_steps=num_steps)
        return ld.Denoiser(lambda_network(), process, prediction)

    def lambda_network() -> torch.nn.Module:
        network = torch.nn.Linear(8, 8)
        forward = network.forward
        network.forward = lambda x, index: forward(x)
        return network

    written = denoiser("clean")
    write_checkpoint(tmp_path / "c.safetensors", training.state_tensors(written.state_dict()), {})
    tensors = read_checkpoint(tmp_path / "c.safetensors").tensors
    same = denoiser("clean")
    with torch.no_grad():
        same.network.weight.zero_()
    training.restore_tensors(tensors, same.state_dict(), "model")
    assert torch.equal(same.network.weight, written.network.weight)
    for other, message in (
        (denoiser("noise"), 'prediction: expected "noise", got "clean"'),
        (denoiser("clean", 20), "process: expected .*20.*, got .*10"),
    ):
        before = other.network.weight.clone()
        with pytest.raises(ValueError, match=f"model: weights of another denoiser: {message}"):
            training.restore_tensors(tensors, other.state_dict(), "model")
        assert torch.equal(other.network.weight, before)


# ---------------------------------------------------------------------- files


def test_without_safetensors_a_run_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for action in (lambda: training.Checkpoints(tmp_path), lambda: read_checkpoint(tmp_path / "c.safetensors")):
        with pytest.raises(ModuleNotFoundError, match=r"safetensors: expected it to be .*; pip install"):
            action()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_tensors_and_metadata_come_back(tmp_path, dtype):
    values = {"a": torch.randn(3, 4) * 9, "scalar": torch.tensor(3), "none": torch.zeros(0, 2)}
    tensors = {name: value.to(dtype) for name, value in values.items()}
    write_checkpoint(tmp_path / "c.safetensors", tensors, {"step": 3, "names": ["ä", None]})
    found = read_checkpoint(tmp_path / "c.safetensors")
    assert found.metadata == {"step": 3, "names": ["ä", None]}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_the_digest_is_that_of_the_contents(tmp_path):
    """Of tensors and metadata alone: not of the file's name, nor of the order they are given in."""

    def digest(name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, object]) -> str:
        write_checkpoint(tmp_path / name, tensors, metadata)
        return read_checkpoint(tmp_path / name).digest

    one, two = torch.zeros(2), torch.ones(2)
    reference = digest("a.safetensors", {"x": one, "y": two}, {"step": 5})
    assert len(reference) == 64
    assert digest("b.safetensors", {"y": two, "x": one}, {"step": 5}) == reference
    others = [({"x": two, "y": one}, {"step": 5}), ({"x": one, "y": two}, {"step": 6})]
    assert len({digest("c.safetensors", *other) for other in others} | {reference}) == 3


def test_what_was_read_does_not_change_with_the_file(folder):
    found = folder.latest()
    found.path.write_bytes(bytes(found.path.stat().st_size))
    assert found.section("model")["w"].eq(2).all()


def test_only_the_last_are_kept_and_nothing_else_is_left(folder):
    (folder.folder / "step-00000003.safetensors.partial").write_bytes(b"of a process that was killed")
    folder.save(3, {"model:w": torch.zeros(1)}, {})
    assert sorted(path.name for path in folder.folder.iterdir()) == [
        "step-00000002.safetensors", "step-00000003.safetensors",
    ]  # fmt: skip


def test_every_flipped_byte_is_noticed(folder):
    """Every byte of the file, one after the other: header, metadata, checksum, weights."""
    path = folder.paths()[-1]
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="step-00000002"):
            read_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 100, -1])
def test_a_truncated_file_is_refused_and_the_one_before_is_used(folder, keep):
    path = folder.paths()[-1]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.warns(UserWarning, match="checkpoint refused: .*step-00000002.safetensors"):
        found = folder.latest()
    assert found.metadata["step"] == 1
    assert found.section("model")["w"].eq(1).all()
    folder.save(2, {"model:w": torch.full((1,), 9.0)}, {"step": 2})  # going on from there
    assert folder.latest().metadata["step"] == 2


def test_a_refused_file_never_pushes_out_a_good_one(folder):
    path = folder.folder / "step-00000009.safetensors"
    path.write_bytes(b"damaged")
    folder.keep = 1
    folder.save(3, {"model:w": torch.zeros(1)}, {"step": 3})
    with pytest.warns(UserWarning, match="refused"):
        assert folder.latest().metadata["step"] == 3


def test_none_whole_is_an_error_and_none_at_all_is_not(folder, tmp_path):
    for path in folder.paths():
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="refused"),
        pytest.raises(CheckpointError, match=r"(?s)step-00000002.*step-00000001"),
    ):
        folder.latest()
    assert Checkpoints(tmp_path / "nothing").latest() is None


def test_a_safetensors_file_of_someone_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "step-00000001.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
        read_checkpoint(tmp_path / "step-00000001.safetensors")


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    path = tmp_path / "step-00000001.safetensors"
    torch.save({"w": Trap()}, path)
    with pytest.raises(CheckpointError, match="step-00000001"):
        read_checkpoint(path)
    assert not (tmp_path / "trapped").exists()


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.folder.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")  # as the system says it: without a name

    monkeypatch.setattr(os, "fsync", full)
    for number in (2, 3):  # over a file, and beside it
        with pytest.raises(CheckpointError, match=rf"No space left on device: '.*step-0000000{number}\.safetensors'"):
            folder.save(number, {"model:w": torch.zeros(3)}, {"step": number})
        assert {path.name: path.read_bytes() for path in folder.folder.iterdir()} == before


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "figures.json"
    path.write_text("before")

    def interrupted():
        with training.whole_file(path) as partial:
            partial.write_text("hal")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert path.read_text() == "before"
    with training.whole_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Neither one of a name that could be guessed, nor one of the very name."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "step-00000001.safetensors"
    path.with_name(path.name + ".partial").symlink_to(victim)
    monkeypatch.setattr(training.files.secrets, "token_hex", lambda size: "0" * 2 * size)
    guessed = path.with_name(f"{path.name}.{'0' * 16}.partial")
    guessed.symlink_to(victim)
    with pytest.raises(CheckpointError, match="File exists"):
        write_checkpoint(path, {"w": torch.zeros(3)}, {})
    assert not path.exists()
    training.remove_partials(path.parent)
    write_checkpoint(path, {"w": torch.zeros(3)}, {})
    assert victim.read_text() == "precious"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_permissions_are_those_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_checkpoint(tmp_path / "c.safetensors", {"w": torch.zeros(2)}, {})
        with training.whole_file(tmp_path / "f.json") as partial:
            partial.write_text("{}")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "c.safetensors": mode, "f.json": mode,
    }  # fmt: skip


def test_what_a_killed_write_leaves_goes_and_what_is_being_written_stays(tmp_path):
    """A process is killed in the middle of a checkpoint of 64 MB; another is in the middle of a file."""
    code = "import sys, pathlib, torch\nfrom lineardiffusion.training import write_checkpoint\nprint(flush=True)\n"
    code += "write_checkpoint(pathlib.Path(sys.argv[1]), {'w': torch.zeros(2**24)}, {})\n"
    path = tmp_path / "step-00000001.safetensors"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        while process.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.0005)
        process.kill()
    for left in tmp_path.iterdir():
        assert left == path or left.name.startswith(path.name), "the only files are ours"
    with training.whole_file(tmp_path / "other") as partial:
        training.remove_partials(tmp_path)
        partial.write_text("whole")
        assert {left for left in tmp_path.iterdir() if left != path} == {partial}
    assert (tmp_path / "other").read_text() == "whole"


def test_a_pipe_or_a_folder_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "step-00000002.safetensors")
    (tmp_path / "step-00000001.safetensors").mkdir()
    for step in (1, 2):
        with pytest.raises(CheckpointError, match=rf"step-0000000{step}.*expected a file, got a folder, a pipe"):
            read_checkpoint(tmp_path / f"step-0000000{step}.safetensors")
    with pytest.warns(UserWarning, match="refused"), pytest.raises(CheckpointError, match="no checkpoint is whole"):
        Checkpoints(tmp_path).latest()
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "nothing.safetensors")


def test_types_that_a_checkpoint_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match=r"w: expected one of .*'F32'.*got torch.complex128"):
        write_checkpoint(tmp_path / "c.safetensors", {"w": torch.zeros(2, dtype=torch.complex128)}, {})
    assert not list(tmp_path.iterdir())


def test_safetensors_reads_what_is_written(tmp_path):
    """Of every type, in an order of its own, with lengths that would leave gaps, strided and shared."""
    from safetensors.torch import load_file

    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {"b": base.T, "a": base, "c": torch.tensor([True, False, True]), "d": base[0].half(), "é": base.double()}
    write_checkpoint(tmp_path / "c.safetensors", tensors, {})
    found = load_file(tmp_path / "c.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


# ---------------------------------------------------------------------- locks


HOLDER = """
import os, pathlib, sys, time, lineardiffusion as ld
with ld.training.locked_folder(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(30)  # a worker that outlives its process
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_holder_and_is_free_when_that_dies(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=rf"run: in use by process {process.pid} on .*another folder"):
            lock(folder)
        process.kill()
        process.wait()
        lock(folder)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(folder.iterdir())
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(NotADirectoryError, match="expected a folder, got a file"):
            lock(place)


def lock(folder: Path) -> None:
    with training.locked_folder(folder):
        assert (folder / ".lock").exists()


def test_a_file_system_without_locks_warns(tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(training.files.fcntl, "lockf", none)
    monkeypatch.setattr(training.files.fcntl, "flock", none)
    (tmp_path / "left.partial").write_text("")
    with pytest.warns(UserWarning, match="no locks; start no second program"):
        lock(tmp_path)
    training.remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["left.partial"]


# ---------------------------------------------------------------------- disks


def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of 1 MiB, where one can be mounted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, {"w": torch.zeros(100_000)}, {"step": 1})
        with pytest.raises(CheckpointError, match=r"step-00000002.*could not be written"):
            checkpoints.save(2, {"w": torch.zeros(200_000)}, {"step": 2})
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
        assert checkpoints.latest().metadata == {"step": 1}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="not a folder that can be written to"):
        Checkpoints(tmp_path / "file").save(1, {"w": torch.zeros(1)}, {})


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep: expected"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="step: expected"):
        Checkpoints(tmp_path).save(-1, {}, {})


def test_the_format_is_plain_safetensors(folder):
    from safetensors import safe_open

    with safe_open(folder.paths()[0], "pt") as file:
        assert json.loads(file.metadata()["metadata"]) == {"step": 1}
        assert list(file.keys()) == ["model:w"]


@pytest.mark.long
def test_a_model_in_shards_is_saved_whole_and_comes_back(tmp_path):
    """FSDP 2 on two gloo processes; the assertions are in sharded.py."""
    script = Path(__file__).with_name("sharded.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
