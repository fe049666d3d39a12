"""What a user does first with an installed wheel, in an empty folder: run by .ci/wheel in fresh environments."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib import metadata, util
from pathlib import Path, PurePosixPath


def check_files() -> None:
    """The package and its description, typed, and nothing beside it."""
    files = [PurePosixPath(file) for file in metadata.files("lineardiffusion") or []]
    own = {"lineardiffusion", f"lineardiffusion-{metadata.version('lineardiffusion')}.dist-info"}
    assert {file.parts[0] for file in files} == own, sorted({file.parts[0] for file in files})
    assert PurePosixPath("lineardiffusion/py.typed") in files
    assert PurePosixPath("lineardiffusion/flexi_unet/model.py") in files
    assert not [name for name in ("examples", "tests", "benchmarks", "docs") if util.find_spec(name)]


def check_report() -> None:
    command = [sys.executable, "-m", "lineardiffusion"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert report.splitlines()[0].split() == ["lineardiffusion:", metadata.version("lineardiffusion")]
    print(report)


def check_front_page() -> None:
    """The first example of the page that indexes of packages show, as printed there; its samples are near its data."""
    page = metadata.metadata("lineardiffusion").get_payload()
    code = re.search(r"^```python\n(.*?)^```", str(page), re.DOTALL | re.MULTILINE)
    assert code
    names: dict[str, object] = {}
    started = time.monotonic()
    exec(compile(code[1], "README.md", "exec"), names)
    print(f"the example of the front page took {time.monotonic() - started:.0f} s")

    import torch

    samples, images = names["samples"], names["images"]
    assert isinstance(samples, torch.Tensor)
    assert isinstance(images, torch.Tensor)
    nearest = torch.cdist(samples.flatten(1), images.flatten(1)).min(1).values / samples[0].numel() ** 0.5
    typical = images.std()
    print(f"distance of samples to the nearest image: {nearest.median():.2f}, where pixels vary by {typical:.2f}")
    assert nearest.median() < typical / 3
    picture = Path("samples.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert picture.endswith(b"IEND\xaeB`\x82")


if __name__ == "__main__":
    assert not list(Path.cwd().iterdir()), f"not empty: {Path.cwd()}"
    check_files()
    check_report()
    check_front_page()
