"""The Gaussian laboratory: what samplers do to Gaussian data, exactly, without training and without Monte Carlo.

`evaluate` gives the distribution a sampler produces and the error of each of its steps, `frontier` the error against
the cost, `optimise` the best times of change, grid and solver for a budget, `OptimalDenoiser` the denoiser that all of
them assume, and `power_law` and `estimate` covariances of data.
"""

from lineardiffusion.lab.evaluate import evaluate as evaluate
from lineardiffusion.lab.evaluate import frontier as frontier
from lineardiffusion.lab.optimise import Optimum as Optimum
from lineardiffusion.lab.optimise import optimise as optimise
from lineardiffusion.lab.report import Report as Report
from lineardiffusion.lab.report import Step as Step
from lineardiffusion.lab.spectra import OptimalDenoiser as OptimalDenoiser
from lineardiffusion.lab.spectra import estimate as estimate
from lineardiffusion.lab.spectra import power_law as power_law
