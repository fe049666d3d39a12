"""Systems of the literature: each a process, what its network predicts, its loss and its sampler; one file each."""

from lineardiffusion.families.base import Card as Card
from lineardiffusion.families.base import Family as Family
from lineardiffusion.families.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families.cascade import CascadedDiffusion as CascadedDiffusion
from lineardiffusion.families.cold import ColdDiffusion as ColdDiffusion
from lineardiffusion.families.cold import GaussianBlur as GaussianBlur
from lineardiffusion.families.cold import GaussianMask as GaussianMask
from lineardiffusion.families.cold import LowResolution as LowResolution
from lineardiffusion.families.ddim import DDIM as DDIM
from lineardiffusion.families.ddpm import DDPM as DDPM
from lineardiffusion.families.dimensionality_varying import DimensionalityVarying as DimensionalityVarying
from lineardiffusion.families.dimensionality_varying import Fade as Fade
from lineardiffusion.families.edm import EDM as EDM
from lineardiffusion.families.flow import FlowMatching as FlowMatching
from lineardiffusion.families.ihdm import InverseHeatDissipation as InverseHeatDissipation
from lineardiffusion.families.ihdm import InverseHeatSampler as InverseHeatSampler
from lineardiffusion.families.matryoshka import Matryoshka as Matryoshka
from lineardiffusion.families.progressive_deblurring import DeblurringSampler as DeblurringSampler
from lineardiffusion.families.progressive_deblurring import ProgressiveDeblurring as ProgressiveDeblurring
from lineardiffusion.families.relay import RelayDiffusion as RelayDiffusion
from lineardiffusion.families.relay import RelaySampler as RelaySampler
from lineardiffusion.families.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
from lineardiffusion.families.soft_diffusion import MomentumSampler as MomentumSampler
from lineardiffusion.families.soft_diffusion import SoftDiffusion as SoftDiffusion
from lineardiffusion.families.subspace import SubspaceDiffusion as SubspaceDiffusion
from lineardiffusion.families.subspace import SubspaceSampler as SubspaceSampler
