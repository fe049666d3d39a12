"""Noise schedules and resolution schedules: a_t, σ_t and the resolution of x_t, as functions of t.

Noise schedules are called here, `schedules.linear(1000)`; `Schedule` says what they have in common.
"""

from lineardiffusion.schedules.coloured import coloured as coloured
from lineardiffusion.schedules.continuous import edm as edm
from lineardiffusion.schedules.continuous import flow as flow
from lineardiffusion.schedules.continuous import sub_vp as sub_vp
from lineardiffusion.schedules.continuous import ve as ve
from lineardiffusion.schedules.continuous import vp as vp
from lineardiffusion.schedules.named import NoiseSchedule as NoiseSchedule
from lineardiffusion.schedules.named import as_schedule as as_schedule
from lineardiffusion.schedules.named import cosine as cosine
from lineardiffusion.schedules.named import cosine_log_snr as cosine_log_snr
from lineardiffusion.schedules.named import linear as linear
from lineardiffusion.schedules.noise import Schedule as Schedule
from lineardiffusion.schedules.piecewise import piecewise as piecewise
from lineardiffusion.schedules.resolution import ResolutionSchedule as ResolutionSchedule
from lineardiffusion.schedules.resolution import as_changes as as_changes
from lineardiffusion.schedules.resolution import changes_at as changes_at
from lineardiffusion.schedules.resolution import convex_decay as convex_decay
from lineardiffusion.schedules.resolution import equal_levels as equal_levels
from lineardiffusion.schedules.resolution import information_matched as information_matched
from lineardiffusion.schedules.resolution import sigmoid_like as sigmoid_like
from lineardiffusion.schedules.resolution import snr_matched as snr_matched
from lineardiffusion.schedules.resolution import tanh_like as tanh_like
from lineardiffusion.schedules.tables import CovarianceTable as CovarianceTable
from lineardiffusion.schedules.tables import from_alpha_bar as from_alpha_bar
from lineardiffusion.schedules.tables import table as table
from lineardiffusion.schedules.tables import zero_terminal_snr as zero_terminal_snr
