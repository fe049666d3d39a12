"""Samplers: from x_T to x_0, state by state and resolution by resolution.

`Sampler` is the loop; each kind of step has a file: `AncestralSampler` and `DDIMSampler` (Markov kernels, of first to
third order), `SharedNoiseSampler`, `HeunSampler`.
"""

from lineardiffusion.samplers.ancestral import AncestralSampler as AncestralSampler
from lineardiffusion.samplers.base import Sampler as Sampler
from lineardiffusion.samplers.ddim import DDIMSampler as DDIMSampler
from lineardiffusion.samplers.draws import Draws as Draws
from lineardiffusion.samplers.heun import HeunSampler as HeunSampler
from lineardiffusion.samplers.history import Estimate as Estimate
from lineardiffusion.samplers.history import History as History
from lineardiffusion.samplers.shared_noise import SharedNoiseSampler as SharedNoiseSampler
