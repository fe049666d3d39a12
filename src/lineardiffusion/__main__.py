"""What a bug report needs to say of a machine:

python -m lineardiffusion
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

import torch

import lineardiffusion as ld

CORE = ("numpy", "einops", "typing-extensions")
OPTIONAL = (
    "accelerate",
    "azula",
    "datasets",
    "deepinv",
    "diffusers",
    "huggingface-hub",
    "hypothesis",
    "jsonargparse",
    "matplotlib",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "torch-fidelity",
    "torchvision",
    "triton",
)


def report() -> str:
    """Versions, devices and what else decides what is computed, a line for each."""
    optional = [f"{name} {found}" for name in OPTIONAL if (found := _version(name))]
    lines = {
        "lineardiffusion": ld.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "torch": torch.__version__,  # which names the build, too
        **{name: _version(name) or "missing" for name in CORE},
        "optional": ", ".join(optional) or "none",
        "devices": ", ".join(_devices()),
        "threads": f"{torch.get_num_threads()} within operations, {torch.get_num_interop_threads()} between them",
        "default dtype": str(torch.get_default_dtype()),
        "float32 products": torch.get_float32_matmul_precision(),
        "BLAS": _blas(),
    }
    return "\n".join(f"{name + ':':20}{value}" for name, value in lines.items())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    devices = [f"cpu ({platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()})"]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} ({about.name}, {about.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _blas() -> str:
    """The library of torch's products, and whether convolutions have oneDNN."""
    settings = dict(re.findall(r"\b(\w+)=(\w+)", torch.__config__.show()))
    onednn = "with" if settings.get("USE_MKLDNN") in ("ON", "1") else "without"
    return f"{settings.get('BLAS_INFO', 'unknown')}, {onednn} oneDNN"


if __name__ == "__main__":
    print(report())
