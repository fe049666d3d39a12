r"""Paths: what becomes of an image in time, apart from how bright it is and how much noise is added.

A path is the degradation R_{s→t} between any two times, R_{0→t} = R_t for short, with R_{s→u} = R_{t→u} R_{s→t}. In
data range: c_t = R_t x_0 looks like the data. A process is a path and a schedule,

    x_t = a_t R_t x_0 + σ_t ε .

Where a shape is kept, R_t is diagonal in one orthonormal basis for all times, the frame of the path,
R_t = V diag(r_t) Vᵀ. Solvers of higher order extrapolate in it, each direction by its own a_t² r_t² / σ_t².
"""

from lineardiffusion.paths.base import Path as Path
from lineardiffusion.paths.base import identity as identity
from lineardiffusion.paths.chain import chain as chain
from lineardiffusion.paths.fading import heat as heat
from lineardiffusion.paths.fading import spectral as spectral
from lineardiffusion.paths.pyramid import pyramid as pyramid
from lineardiffusion.paths.truncated import truncated as truncated
