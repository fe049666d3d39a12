"""Diffusion processes: the general one, and one file for each family."""

from lineardiffusion.processes.base import LinearDiffusion as LinearDiffusion
from lineardiffusion.processes.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.processes.ddpm import DDPM as DDPM
from lineardiffusion.processes.edm import EDM as EDM
from lineardiffusion.processes.feasibility import feasible_sigmas as feasible_sigmas
from lineardiffusion.processes.flow import FlowMatching as FlowMatching
from lineardiffusion.processes.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
