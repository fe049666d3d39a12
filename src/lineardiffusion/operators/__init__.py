"""Linear operators: the protocol, one module for each structure, and their products."""

from lineardiffusion.operators import bases as bases
from lineardiffusion.operators import svd as svd
from lineardiffusion.operators.base import LinearOperator as LinearOperator
from lineardiffusion.operators.blocks import BlockDiagonal as BlockDiagonal
from lineardiffusion.operators.blocks import ChannelMix as ChannelMix
from lineardiffusion.operators.chain import OperatorChain as OperatorChain
from lineardiffusion.operators.composed import Composed as Composed
from lineardiffusion.operators.convolution import Convolution as Convolution
from lineardiffusion.operators.dense import Matrix as Matrix
from lineardiffusion.operators.diagonal import Diagonal as Diagonal
from lineardiffusion.operators.function import from_function as from_function
from lineardiffusion.operators.orthogonal import AveragePool as AveragePool
from lineardiffusion.operators.orthogonal import OrthogonalRows as OrthogonalRows
from lineardiffusion.operators.orthogonal import Truncation as Truncation
from lineardiffusion.operators.scalar import Identity as Identity
from lineardiffusion.operators.scalar import Scaled as Scaled
from lineardiffusion.operators.separable import Resize as Resize
from lineardiffusion.operators.separable import Separable as Separable
from lineardiffusion.operators.spectral import SpectralFilter as SpectralFilter
from lineardiffusion.operators.sums import Sum as Sum
from lineardiffusion.operators.truncated import TruncatedFilter as TruncatedFilter
