"""What an installation promises: few dependencies, types, and a quickstart that runs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from examples import quickstart

import lineardiffusion as ld
import typed_usage

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


def test_importing_does_not_import_the_networks():
    code = "import sys, lineardiffusion; print('lineardiffusion.flexi_unet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_bug_report_needs(tmp_path):
    command = [sys.executable, "-m", "lineardiffusion"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert lines["lineardiffusion"].split() == [ld.__version__]
    assert lines["python"].split()[0] == platform.python_version()
    assert lines["torch"].split() == [torch.__version__]
    assert {name: lines[name].strip() for name in ("numpy", "einops", "typing-extensions")} == {
        name: version(name) for name in ("numpy", "einops", "typing-extensions")
    }
    assert f"pillow {version('pillow')}" in lines["optional"]
    assert f"{os.cpu_count()} cores" in lines["devices"]
    assert ("cuda:0" in lines["devices"]) == torch.cuda.is_available()
    assert lines["default dtype"].split() == ["torch.float32"]
    assert {"platform", "threads", "float32 products", "BLAS"} <= lines.keys()


@pytest.mark.long
def test_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--steps", "2", "--out", str(tmp_path)])
    monkeypatch.setattr(quickstart, "JUDGED_SAMPLES", 20)
    quickstart.main()
    output, errors = capsys.readouterr()
    assert "of 20 samples are labelled with confidence ≥ 0.9" in output
    assert "training: 100%" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "samples.png", "trajectory.png"]
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # all of them follow the umask
    denoiser = quickstart.load(tmp_path / "model.safetensors")
    assert denoiser.process.shape(1000) == (1, 2, 2)
    assert ld.DDIMSampler(denoiser, steps=5)(2, seeds=[0, 1], progress=False).shape == (2, 1, 8, 8)


def test_quickstart_refuses_bad_arguments(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--steps", "0", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--steps: expected at least 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_program_for_type_checkers_runs():
    typed_usage.main()


def test_pre_commit_has_the_versions_of_constraints():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert [hook["repo"].rsplit("/", 1)[1] for hook in hooks] == ["ruff-pre-commit", "mirrors-mypy"]
    wanted = [f"{name}=={hook['rev'][1:]}" for name, hook in zip(("ruff", "mypy"), hooks, strict=True)]
    wanted += [line for line in hooks[1]["hooks"][0]["additional_dependencies"] if not line.startswith("-")]
    assert [line for line in wanted if not re.search(rf"^{re.escape(line)}(;.*)?$", constraints, re.MULTILINE)] == []


def test_workflows_and_forms_of_issues():
    workflows = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github").rglob("*.yml")
    }
    assert {"tests", "docs", "publish", "bug_report", "feature_request"} <= workflows.keys()
    assert workflows["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"] == [
        f"3.{minor}" for minor in range(10, 15)
    ]
    assert any("python -m lineardiffusion" in str(part) for part in workflows["bug_report"]["body"])


@pytest.mark.parametrize(
    "name", ["LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "Makefile", "constraints.txt", "README.md"]
)
def test_files_a_user_looks_for(name):
    assert (ROOT / name).stat().st_size > 0
