"""Flexi-UNet, the network of Scale Space Diffusion, and the Full UNet it is compared with."""

from lineardiffusion.flexi_unet.model import FlexiUNet as FlexiUNet
from lineardiffusion.flexi_unet.model import FullUNet as FullUNet
from lineardiffusion.flexi_unet.model import ResizedFlexiUNet as ResizedFlexiUNet
from lineardiffusion.flexi_unet.model import shared_levels as shared_levels
from lineardiffusion.flexi_unet.settings import SETTINGS as SETTINGS
