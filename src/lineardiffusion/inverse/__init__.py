"""Inverse problems: samplers of p(x_0 | y) for a measurement y = A x_0 + σ_y n, A any linear operator.

`InverseSampler` is what they share; each method has a file. docs/inverse.md says which to take.

    >>> import torch, lineardiffusion as ld
    >>> denoiser = ld.Denoiser(lambda x, index: 0.5 * x, ld.DDPM((1, 8, 8)), "data")
    >>> blur = ld.Convolution(torch.tensor([[0.25, 0.5, 0.25]]), (1, 8, 8))
    >>> sampler = ld.inverse.DDRM(denoiser, blur, y=torch.zeros(1, 8, 8), sigma_y=0.05, steps=20)
    >>> sampler(4, seeds=range(4), progress=False).shape
    torch.Size([4, 1, 8, 8])
"""

from lineardiffusion.inverse.base import InverseSampler as InverseSampler
from lineardiffusion.inverse.ddnm import DDNM as DDNM
from lineardiffusion.inverse.ddrm import DDRM as DDRM
from lineardiffusion.inverse.diffpir import DiffPIR as DiffPIR
from lineardiffusion.inverse.dps import DPS as DPS
from lineardiffusion.inverse.inpaint import Inpaint as Inpaint
from lineardiffusion.inverse.inpaint import RePaint as RePaint
from lineardiffusion.inverse.mmps import MMPS as MMPS
from lineardiffusion.inverse.pigdm import PiGDM as PiGDM
