r"""f(A) v by a Krylov space, with gradients that do not go through the iteration: repeated eigenvalues, and spaces that
end early, divide by zero there. For L = ⟨g, f(A) v⟩ they are

    ∂L/∂v = f(A) g,      dL = Σ_ij C_ij ⟨q_i(g), dA q_j(v)⟩,

with the Krylov bases q(g), q(v) of both vectors, and C the divided differences f[θ_i, θ_j] of their Ritz values, in
these bases.

References:
    | Kandolf, Koskela, Relton & Schweitzer, Computing low-rank approximations of the Fréchet derivative of a matrix
    | function using Krylov subspace methods, 2021
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lineardiffusion.convergence import LanczosInfo, Measure, Options, converge
from lineardiffusion.krylov import KrylovSpace, Matvec, SpectralFunction, krylov_spaces

_THIRD = 6e-6  # a third of the digits of float64

_PLAIN = Measure()


def apply_function(
    matvec: Matvec, v: Tensor, f: SpectralFunction, event_ndim: int, options: Options, measure: Measure = _PLAIN
) -> tuple[Tensor, LanczosInfo]:
    """f(A) v, differentiable in v and in what A depends on, and how it came about.

    Arguments:
        matvec: x ↦ A x.
        v: with shape (*batch, *event), in at least single precision.
        f: maps a float64 tensor of eigenvalues to their images, element by element.
        event_ndim: number of trailing dimensions of v that form one vector.
        options: when to stop.
        measure: of the error.

    Raises:
        ValueError: as `krylov_spaces`, or f is not finite at an eigenvalue.
    """
    norms, spaces = krylov_spaces(matvec, v, event_ndim)
    space, images, coefficients, info = converge(spaces, f, options, measure)
    flat = v.reshape(len(norms), -1)
    run = _Run(matvec, f, event_ndim, options, v.shape, space, norms, coefficients)
    if torch.is_grad_enabled() and (flat.requires_grad or space.products or images.requires_grad):
        products = [product.reshape(flat.shape) for product in space.products]
        stacked = torch.stack(products, 1) if products else None
        result: Tensor = _Function.apply(flat, images, stacked, run)  # type: ignore[no-untyped-call]
    else:
        result = run.result()
    return result.reshape(v.shape), replace(info, error=info.error.reshape(v.shape[: v.ndim - event_ndim]))


@dataclass(frozen=True)
class _Run:
    """A finished iteration, and what it takes to do another like it."""

    matvec: Matvec
    f: SpectralFunction
    event_ndim: int
    options: Options
    shape: torch.Size
    space: KrylovSpace
    norms: Tensor
    coefficients: Tensor

    def result(self) -> Tensor:
        """‖v‖ Q_k f(T_k) e_1, (B, n)."""
        return self.norms[:, None] * self.space.combine(self.coefficients)


class _Function(torch.autograd.Function):
    """(v, f(θ), [A q_j(v)]) ↦ f(A) v: the last two are arguments so that gradients reach what f and A depend on."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, images: Tensor, products: Tensor | None, run: _Run) -> Tensor:
        ctx.run = run
        return run.result()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        run: _Run = ctx.run
        needs_v, needs_images, needs_products, _ = ctx.needs_input_grad
        if torch.is_grad_enabled() and (needs_images or needs_products):
            raise NotImplementedError(
                "second derivatives of a function of an operator are known with respect to the vector only, not to "
                "the parameters of the operator or of the function"
            )
        to_v = to_images = to_products = None
        space, norms = run.space, run.norms.double().cpu()
        if needs_v and torch.is_grad_enabled():
            wide = gradient.reshape(run.shape)
            to_v = apply_function(run.matvec, wide, run.f, run.event_ndim, run.options)[0].reshape(gradient.shape)
        elif needs_v or needs_products:
            norms_g, spaces = krylov_spaces(run.matvec, gradient.reshape(run.shape), run.event_ndim)
            other, _, coefficients, _ = converge(spaces, run.f, run.options, _PLAIN)
            to_v = norms_g[:, None] * other.combine(coefficients)
            if needs_products:
                vectors_g, vectors = other.eigen[1], space.eigen[1]
                differences = _divided_differences(run.f, other.eigen[0], space.eigen[0])
                weights = vectors_g[:, 0, :, None] * differences * vectors[:, 0, None, :]
                in_bases = vectors_g @ weights @ vectors.mT * (norms_g.double().cpu() * norms)[:, None, None]
                to_products = torch.bmm(in_bases.mT.to(other.basis), other.basis)
        if needs_images:
            vectors = space.eigen[1]
            along = torch.bmm(space.basis, gradient[..., None])[..., 0].double().cpu()  # Qᵀ g
            to_images = norms[:, None] * vectors[:, 0, :] * torch.bmm(vectors.mT, along[..., None])[..., 0]
        return to_v, to_images, to_products, None


def _divided_differences(f: SpectralFunction, a: Tensor, b: Tensor) -> Tensor:
    """f[a_i, b_j] = (f(a_i) − f(b_j)) / (a_i − b_j), (B, k, l), from values (B, k) and (B, l); where the two are close,
    a central difference over a third of the digits, which is the derivative to two thirds of them."""
    x, y = (values.expand(-1, a.shape[1], b.shape[1]) for values in (a[:, :, None], b[:, None, :]))
    size = torch.maximum(x.abs(), y.abs())
    apart = _THIRD * torch.maximum(size, _THIRD * size.amax()).clamp(min=torch.finfo(size.dtype).tiny)
    close, middle = (x - y).abs() < apart, (x + y) / 2
    middle = torch.where(middle >= 0, torch.maximum(middle, apart / 2), middle)  # not on both sides of zero
    x, y = torch.where(close, middle - apart / 2, x), torch.where(close, middle + apart / 2, y)
    images = f(torch.stack([x, y]).detach()).detach()
    return (images[1] - images[0]) / (y - x)
