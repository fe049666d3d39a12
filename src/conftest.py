"""The examples of bridges are left out where what they lead to is not installed."""

from importlib.util import find_spec

_NEEDS = {"diffusers": "diffusers", "hub.py": "huggingface_hub"}

collect_ignore = [
    f"lineardiffusion/integrations/{name}" for name, package in _NEEDS.items() if find_spec(package) is None
]
