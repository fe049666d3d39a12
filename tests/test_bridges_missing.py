"""A bridge whose library is not installed says what to install."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("library", ["azula", "deepinv", "diffusers", "scipy"])
def test_the_extra_is_named(library):
    program = f"import sys; sys.modules[{library!r}] = None; import lineardiffusion.integrations.{library}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1].startswith(f"ModuleNotFoundError: {library}: expected it to be installed, got ")
    assert ran.stderr.endswith(f'; pip install "lineardiffusion[{library}]"\n')
