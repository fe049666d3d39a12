"""Polynomials for the noise of operators whose norm is known, against dense algebra. The error that is left out is
bounded by tol ‖x‖ max|f|; rounding adds 100 eps or so."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.chebyshev import chebyshev_coefficients
from lineardiffusion.testing import Opaque
from test_operators import draw


def tight(op, tightness: float) -> ld.GramCovariance:
    """(1 − ρMᵀM) with ρλmax = tightness."""
    rho = tightness / op.norm() ** 2
    return ld.GramCovariance(op, lambda values: (1 - rho * values).clamp(min=0))


class Counted(Opaque):
    products = 0

    def apply(self, x):
        self.products += 1
        return super().apply(x)


@pytest.mark.parametrize(("tightness", "terms"), [(0.5, 7), (0.9, 15), (0.99, 41), (0.999, 113)])
def test_terms_of_a_square_root(tightness, terms):
    f = lambda values: (1 - tightness * values).sqrt()  # noqa: E731
    coefficients = chebyshev_coefficients(f, 1.0, 1e-6)
    assert len(coefficients) == terms
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    series = sum(c * torch.cos(k * torch.arccos(2 * values - 1)) for k, c in enumerate(coefficients))
    assert (series - f(values)).abs().max() <= 1e-6


def test_what_is_not_smooth_has_no_polynomial():
    assert chebyshev_coefficients(lambda values: (1 - values).sqrt(), 1.0, 1e-6) is None
    assert chebyshev_coefficients(lambda values: (values > 0.5).double(), 1.0, 1e-6) is None
    assert chebyshev_coefficients(lambda values: 1 / (values - values), 1.0, 1e-6) is None
    assert chebyshev_coefficients(torch.zeros_like, 1.0, 1e-6) == [0.0]


SHAPES = {"wide": ld.Resize((2, 8, 6), (4, 3)), "square": ld.Convolution(draw((3, 3)), (1, 6, 7)),
          "tall": ld.Resize((1, 4, 3), (8, 6))}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tightness", [0.1, 0.9, 0.999])
@pytest.mark.parametrize("name", list(SHAPES))
def test_noise_of_a_posterior_by_a_polynomial(name, tightness, dtype):
    structured, op = SHAPES[name], Counted(SHAPES[name])
    sigma_s, sigma_t = 0.5, 0.5 * structured.norm() / math.sqrt(tightness)
    op.norm()  # as a process measures it when it is built
    x_t, mean_s, noise = (draw(s, 3, seed=i).to(dtype) for i, s in enumerate((op.out_shape, op.in_shape, op.in_shape)))
    exact = ld.posterior(x_t.double(), mean_s.double(), structured, sigma_s, sigma_t).covariance.sqrt(noise.double())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        covariance = ld.posterior(x_t, mean_s, op, sigma_s, sigma_t).covariance
        op.products = 0
        result = covariance.sqrt(noise)
        products = op.products
    assert result.dtype == dtype
    eps = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 100 * torch.finfo(dtype).eps
    error = (result.double() - exact).flatten(1).norm(dim=1) / (sigma_s * noise.double().flatten(1).norm(dim=1))
    assert error.max() <= 1e-6 + eps
    assert products == {0.1: 4, 0.9: 15, 0.999: 113}[tightness] + (1 if name == "wide" else 0)


def test_the_tolerance_is_that_of_the_options():
    op = Counted(ld.Convolution(draw((3, 3)), (1, 6, 7)))
    covariance = tight(op, 0.9)
    noise = draw((1, 6, 7), 2)
    exact = ld.GramCovariance(op.operator, covariance.variance).sqrt(noise)
    counts = []
    for tol in (1e-3, 1e-6, 1e-12):
        op.products = 0
        with torch.no_grad(), ld.lanczos_options(tol=tol):
            assert (covariance.sqrt(noise) - exact).norm() <= tol * noise.norm() + 1e-13
        counts.append(op.products)
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]


def test_lanczos_takes_over_where_it_must():
    op = Counted(ld.Convolution(draw((3, 3)), (1, 6, 7)))
    noise = draw((1, 6, 7), 2)
    end = tight(op, 1.0)
    exact = ld.GramCovariance(op.operator, end.variance).sqrt(noise)
    with torch.no_grad():
        assert (end.sqrt(noise) - exact).norm() <= 1e-5 * noise.norm()
    smooth = tight(op, 0.5)
    noise.requires_grad_()
    assert torch.autograd.gradcheck(smooth.sqrt, noise)
    with torch.no_grad(), pytest.raises(ValueError, match="finite"):
        smooth.sqrt(noise * float("nan"))
    with torch.no_grad(), pytest.raises(ValueError, match="at least one"):
        smooth.sqrt(noise[:0])
