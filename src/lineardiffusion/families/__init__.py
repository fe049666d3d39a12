"""Systems of the literature: each a process, what its network predicts, its loss and its sampler; one file each."""

from lineardiffusion.families.base import Card as Card
from lineardiffusion.families.base import Family as Family
from lineardiffusion.families.blue_noise import BlueNoise as BlueNoise
from lineardiffusion.families.blue_noise import TwoPartSampler as TwoPartSampler
from lineardiffusion.families.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families.critically_damped import CriticallyDamped as CriticallyDamped
from lineardiffusion.families.critically_damped import ReverseLangevinSampler as ReverseLangevinSampler
from lineardiffusion.families.critically_damped import SplittingSampler as SplittingSampler
from lineardiffusion.families.ddim import DDIM as DDIM
from lineardiffusion.families.ddpm import DDPM as DDPM
from lineardiffusion.families.edm import EDM as EDM
from lineardiffusion.families.equal_snr import EqualSNR as EqualSNR
from lineardiffusion.families.flow import FlowMatching as FlowMatching
from lineardiffusion.families.gud import GUD as GUD
from lineardiffusion.families.gud import ReverseSDESampler as ReverseSDESampler
from lineardiffusion.families.gud import SoftConditioning as SoftConditioning
from lineardiffusion.families.offset_noise import OffsetNoise as OffsetNoise
from lineardiffusion.families.pyramid_noise import PyramidNoise as PyramidNoise
from lineardiffusion.families.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
