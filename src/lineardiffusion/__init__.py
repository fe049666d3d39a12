r"""Diffusion models whose forward process is any linear degradation plus Gaussian noise, at times t in [0, T]:

    x_t = a_t R_t x_0 + σ_t ε

A path R_t (`ld.paths`: nothing, a blur, lower resolutions, gains in a basis, a chain of operators) and a schedule a_t,
σ_t (`ld.schedules`: DDPM's, cosine, flow, EDM, VP, VE, a table) are a process, which has all its distributions. A
network and what it returns (`ld.Denoiser`) estimate the clean image c_t = R_t x_0; a sampler goes from x_T to x_0 on a
grid of times (`ld.grids`), to first order or a higher one.

    >>> import torch, lineardiffusion as ld
    >>> path = ld.paths.pyramid((1, 8, 8), levels=2)  # half the size where little is left but noise
    >>> process = ld.LinearDiffusion(path, ld.schedules.linear(1000))
    >>> denoiser = ld.Denoiser(lambda x_t, index, size: x_t.new_zeros(len(x_t), 1, *size), process)
    >>> images = torch.rand(16, 1, 8, 8) * 2 - 1
    >>> ld.denoising_loss(denoiser, images, process.sample_timesteps(16)).shape  # its mean is what to minimise
    torch.Size([16])
    >>> ld.DDIMSampler(denoiser, steps=10, order=2)(4, seeds=range(4), progress=False).shape
    torch.Size([4, 1, 8, 8])

Systems of the literature are one line: this process is `ScaleSpaceDiffusion((1, 8, 8), levels=2)`; others are `DDPM`,
`BlurringDiffusion`, `FlowMatching` and `EDM`. A degradation of your own is a `LinearOperator` with an `apply`.
"""

from lineardiffusion import families as families
from lineardiffusion import inverse as inverse
from lineardiffusion import lab as lab
from lineardiffusion import losses as losses
from lineardiffusion import paths as paths
from lineardiffusion import schedules as schedules
from lineardiffusion import testing as testing
from lineardiffusion import times as times
from lineardiffusion import training as training
from lineardiffusion.calibration import calibrate as calibrate
from lineardiffusion.config import from_config as from_config
from lineardiffusion.convergence import LanczosInfo as LanczosInfo
from lineardiffusion.convergence import lanczos_options as lanczos_options
from lineardiffusion.covariance import Covariance as Covariance
from lineardiffusion.covariance import GramCovariance as GramCovariance
from lineardiffusion.denoiser import Denoiser as Denoiser
from lineardiffusion.families import DDPM as DDPM
from lineardiffusion.families import EDM as EDM
from lineardiffusion.families import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families import FlowMatching as FlowMatching
from lineardiffusion.families import ScaleSpaceDiffusion as ScaleSpaceDiffusion
from lineardiffusion.gaussian import Gaussian as Gaussian
from lineardiffusion.gaussian import GaussianMarginal as GaussianMarginal
from lineardiffusion.guidance import guided as guided
from lineardiffusion.information import diffusion_information as diffusion_information
from lineardiffusion.lanczos import lanczos_function as lanczos_function
from lineardiffusion.lanczos import lanczos_sqrt as lanczos_sqrt
from lineardiffusion.losses import SNR as SNR
from lineardiffusion.losses import Flow as Flow
from lineardiffusion.losses import InverseSNR as InverseSNR
from lineardiffusion.losses import MaxSNR as MaxSNR
from lineardiffusion.losses import MinSNR as MinSNR
from lineardiffusion.losses import TruncatedSNR as TruncatedSNR
from lineardiffusion.losses import Uniform as Uniform
from lineardiffusion.losses import Velocity as Velocity
from lineardiffusion.losses import denoising_loss as denoising_loss
from lineardiffusion.operators import AveragePool as AveragePool
from lineardiffusion.operators import BlockDiagonal as BlockDiagonal
from lineardiffusion.operators import ChannelMix as ChannelMix
from lineardiffusion.operators import Composed as Composed
from lineardiffusion.operators import Convolution as Convolution
from lineardiffusion.operators import Diagonal as Diagonal
from lineardiffusion.operators import Identity as Identity
from lineardiffusion.operators import LinearOperator as LinearOperator
from lineardiffusion.operators import Matrix as Matrix
from lineardiffusion.operators import OperatorChain as OperatorChain
from lineardiffusion.operators import OrthogonalRows as OrthogonalRows
from lineardiffusion.operators import Resize as Resize
from lineardiffusion.operators import Scaled as Scaled
from lineardiffusion.operators import Separable as Separable
from lineardiffusion.operators import SpectralFilter as SpectralFilter
from lineardiffusion.operators import Sum as Sum
from lineardiffusion.operators import TruncatedFilter as TruncatedFilter
from lineardiffusion.operators import Truncation as Truncation
from lineardiffusion.operators import bases as bases
from lineardiffusion.operators import from_function as from_function
from lineardiffusion.pictures import save_images as save_images
from lineardiffusion.posterior import ddim_kernel as ddim_kernel
from lineardiffusion.posterior import posterior as posterior
from lineardiffusion.posterior import transition as transition
from lineardiffusion.predictions import EDMPrediction as EDMPrediction
from lineardiffusion.processes import LinearDiffusion as LinearDiffusion
from lineardiffusion.processes import feasible_sigmas as feasible_sigmas
from lineardiffusion.residual import Residual as Residual
from lineardiffusion.samplers import AncestralSampler as AncestralSampler
from lineardiffusion.samplers import DDIMSampler as DDIMSampler
from lineardiffusion.samplers import HeunSampler as HeunSampler
from lineardiffusion.samplers import SharedNoiseSampler as SharedNoiseSampler
from lineardiffusion.schedules import changes_at as changes_at
from lineardiffusion.schedules import convex_decay as convex_decay
from lineardiffusion.schedules import equal_levels as equal_levels
from lineardiffusion.schedules import grids as grids
from lineardiffusion.schedules import information_matched as information_matched
from lineardiffusion.schedules import sigmoid_like as sigmoid_like
from lineardiffusion.schedules import snr_matched as snr_matched
from lineardiffusion.schedules import tanh_like as tanh_like

__version__ = "0.1.0"
