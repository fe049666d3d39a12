"""Diffusion processes: a path × a schedule, and all distributions of that."""

from lineardiffusion.processes.base import LinearDiffusion as LinearDiffusion
from lineardiffusion.processes.feasibility import feasible_sigmas as feasible_sigmas
