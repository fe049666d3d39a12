"""What an installation promises: few dependencies, types, and a quickstart that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from examples.quickstart import load

import lineardiffusion as ld

ROOT = Path(__file__).resolve().parents[1]


def test_importing_needs_the_core_dependencies_only():
    code = (
        "import sys, torch, numpy, einops, typing_extensions; before = set(sys.modules); import lineardiffusion;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    third_party = [name for name in loaded if name not in sys.stdlib_module_names and name[0] != "_"]
    assert set(third_party) <= {"lineardiffusion", "torch", "numpy"}


def test_typed_and_versioned():
    assert (Path(ld.__file__).parent / "py.typed").exists()
    assert ld.__version__.count(".") == 2


def test_quickstart(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--steps", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of 200 samples are labelled with confidence ≥ 0.9" in done.stdout
    assert "training: 100%" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "samples.png", "trajectory.png"]
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # all of them follow the umask
    denoiser = load(tmp_path / "model.safetensors")
    assert denoiser.process.shape(1000) == (1, 2, 2)
    assert ld.DDIMSampler(denoiser, steps=5)(2, seeds=[0, 1], progress=False).shape == (2, 1, 8, 8)


def test_quickstart_refuses_bad_arguments(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--steps", "0", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--steps: expected at least 1" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "README.md"])
def test_files_a_user_looks_for(name):
    assert (ROOT / name).stat().st_size > 0
