"""DDIM and the fast solvers of its kind: steps that keep the noise of x_t, all of it at η = 0."""

from __future__ import annotations

from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.residual import Residual
from lineardiffusion.samplers.markov import MarkovSampler
from lineardiffusion.samplers.multistep import Rule
from lineardiffusion.schedules.grids import Steps


@configured("DDIMSampler")
class DDIMSampler(MarkovSampler):
    r"""x_s from the generalised DDIM kernel (see `ld.ddim_kernel`): at η = 0 nothing is drawn but x_T and, where the
    resolution grows, the noise of the new directions; η = 1 is ancestral sampling.

    At η = 0 it solves the probability-flow ODE, to the order that is asked for. In the names of other libraries:

        order=1                        DDIM; Euler's method for EDM and flows
        order=2, rule="midpoint"       DPM-Solver++(2M), and with η = 1 SDE-DPM-Solver++(2M)
        order=2                        the same with solver_type="heun"
        order=2 | 3                    exponential Adams–Bashforth methods
        order=1 | 2 | 3, rule="midpoint", corrector=True       UniPC (bh2)

    Where estimates are clipped, the noise in x_t is derived again from the clipped one, as everywhere with these
    kernels: `use_clipped_model_output=True` in diffusers, whose default keeps the noise of the unclipped estimate.

    Arguments:
        denoiser: estimates c_s from x_t.
        steps: how many steps to take on a uniform grid, a grid (`ld.grids`), or the times themselves; see `Sampler`.
        eta: η in [0, 1], a factor of the standard deviation of the noise, as in the paper and in diffusers; azula's is
            one of the variance, so that this η is the root of its.
        order, rule, corrector, residual: see `MarkovSampler`.
        clip: range of the estimates, such as (−1, 1) for images.

    Raises:
        TypeError, ValueError: as there, or η outside [0, 1].

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.DDPM((1, 8, 8))
        >>> d = ld.Denoiser(lambda x, t_index: torch.zeros_like(x), p)
        >>> ld.DDIMSampler(d, steps=10, order=2)(2, seeds=[0, 1], progress=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Steps = None,
        eta: float = 0.0,
        order: int = 1,
        rule: Rule = "moment",
        corrector: bool = False,
        clip: tuple[float, float] | None = None,
        residual: Residual | None = None,
    ) -> None:
        super().__init__(denoiser, steps, eta, order, rule, corrector, clip, residual)
