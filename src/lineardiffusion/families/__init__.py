"""Systems of the literature: each a process, what its network predicts, its loss and its sampler; one file each."""

from lineardiffusion.families.base import Card as Card
from lineardiffusion.families.base import Family as Family
from lineardiffusion.families.blurring import BlurringDiffusion as BlurringDiffusion
from lineardiffusion.families.ddim import DDIM as DDIM
from lineardiffusion.families.ddpm import DDPM as DDPM
from lineardiffusion.families.decomposable_flow import DecomposableFlow as DecomposableFlow
from lineardiffusion.families.edm import EDM as EDM
from lineardiffusion.families.flow import FlowMatching as FlowMatching
from lineardiffusion.families.helios import Helios as Helios
from lineardiffusion.families.pixel_flow import PixelFlow as PixelFlow
from lineardiffusion.families.pyramid_flow import PyramidFlow as PyramidFlow
from lineardiffusion.families.scale_space import ScaleSpaceDiffusion as ScaleSpaceDiffusion
from lineardiffusion.families.stages import StageSampler as StageSampler
