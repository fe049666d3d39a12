"""Systems of the literature: each a process, what its network predicts, its loss and its sampler; one file each."""

from lineardiffusion.families.base import Card as Card
from lineardiffusion.families.base import Family as Family
from lineardiffusion.families.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families.ddim import DDIM as DDIM
from lineardiffusion.families.ddpm import DDPM as DDPM
from lineardiffusion.families.dimensionality_varying import DimensionalityVarying as DimensionalityVarying
from lineardiffusion.families.dimensionality_varying import Fade as Fade
from lineardiffusion.families.edm import EDM as EDM
from lineardiffusion.families.fdm import FDM as FDM
from lineardiffusion.families.fdm import BlurStages as BlurStages
from lineardiffusion.families.flow import FlowMatching as FlowMatching
from lineardiffusion.families.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
from lineardiffusion.families.subspace import SubspaceDiffusion as SubspaceDiffusion
from lineardiffusion.families.subspace import SubspaceSampler as SubspaceSampler
from lineardiffusion.families.udpm import UDPM as UDPM
from lineardiffusion.families.udpm import UDPMSampler as UDPMSampler
from lineardiffusion.families.wavelet import WSGM as WSGM
from lineardiffusion.families.wavelet import BandNetwork as BandNetwork
from lineardiffusion.families.wavelet import WaveletDiffusion as WaveletDiffusion
