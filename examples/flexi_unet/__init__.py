"""Flexi-UNet, the network of Scale Space Diffusion, and the Full UNet it is compared with."""

from examples.flexi_unet.model import FlexiUNet as FlexiUNet
from examples.flexi_unet.model import FullUNet as FullUNet
from examples.flexi_unet.model import ResizedFlexiUNet as ResizedFlexiUNet
from examples.flexi_unet.model import shared_levels as shared_levels
from examples.flexi_unet.settings import SETTINGS as SETTINGS
