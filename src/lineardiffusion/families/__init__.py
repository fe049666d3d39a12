"""Systems of the literature: each a process, what its network predicts, its loss and its sampler; one file each."""

from lineardiffusion.families.base import Card as Card
from lineardiffusion.families.base import Family as Family
from lineardiffusion.families.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families.bottleneck import BottleneckSampling as BottleneckSampling
from lineardiffusion.families.ddim import DDIM as DDIM
from lineardiffusion.families.ddpm import DDPM as DDPM
from lineardiffusion.families.edm import EDM as EDM
from lineardiffusion.families.flow import FlowMatching as FlowMatching
from lineardiffusion.families.multiresolution import StageSampler as StageSampler
from lineardiffusion.families.region_adaptive import RegionAdaptive as RegionAdaptive
from lineardiffusion.families.relay import RelayDiffusion as RelayDiffusion
from lineardiffusion.families.relay import RelaySampler as RelaySampler
from lineardiffusion.families.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
from lineardiffusion.families.speed import SPEED as SPEED
