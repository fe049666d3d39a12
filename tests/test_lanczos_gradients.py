"""Gradients of functions of operators of unknown structure, by vectors and by what the operator learns, against central
differences in float64. With a step of 1e-5 these are known to about 1e-9 where the function is known to 1e-14, so that
Lanczos' method is asked for 1e-12, and warns where rounding does not allow for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lineardiffusion as ld
from test_operators import draw


class Gain(ld.LinearOperator):
    """w ∘ x with a learned w."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight.shape, weight.shape)
        self.weight = weight

    def apply(self, x):
        return self.weight * x


class Learned(ld.LinearOperator):
    """A learned matrix between events of any shapes."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__((weight.shape[1],), (weight.shape[0],))
        self.weight = weight

    def apply(self, x):
        return x @ self.weight.T


pytestmark = pytest.mark.filterwarnings("ignore:Lanczos stopped")


@pytest.fixture(autouse=True)
def tight():
    with ld.lanczos_options(tol=1e-12, max_iterations=400):
        yield


def check(loss, parameter: torch.Tensor) -> None:
    """d loss / d parameter by autograd and by central differences."""
    parameter = parameter.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(parameter), parameter)
    step, expected = 1e-5, torch.zeros_like(parameter)
    with torch.no_grad():
        for i in range(parameter.numel()):
            change = torch.zeros_like(parameter)
            change.view(-1)[i] = step
            expected.view(-1)[i] = (loss(parameter + change) - loss(parameter - change)) / (2 * step)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


WEIGHTS = {
    "repeated": torch.tensor([0.9, 0.9, 0.2, 0.2], dtype=torch.float64),
    "alike": torch.full((4,), 0.7, dtype=torch.float64),
    "nearly alike": torch.tensor([0.7, 0.7 + 1e-8, 0.7 - 1e-7, 0.5], dtype=torch.float64),
    "apart": torch.tensor([0.9, 0.6, -0.4, 0.3], dtype=torch.float64),
    "ill-conditioned": torch.tensor([0.9, 0.4, 0.05, -0.01], dtype=torch.float64),
}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_a_sample_of_a_kernel_by_the_weights_of_its_operator(name, eta):
    x_t, mean_s, noise = (draw((4,), 2, seed=seed) for seed in range(3))

    def loss(w: torch.Tensor) -> torch.Tensor:
        return ld.ddim_kernel(x_t, mean_s, Gain(w), 0.8, 1.0, eta).sample(noise).square().sum()

    check(loss, WEIGHTS[name])


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_posterior_transition_and_solve_by_a_matrix(shape):
    weights = 0.3 * draw(shape)
    x_t, mean_s, noise = draw(shape[:1], 2), draw(shape[1:], 2, seed=1), draw(shape[1:], 2, seed=2)
    check(lambda w: ld.posterior(x_t, mean_s, Learned(w), 0.5, 1.0).sample(noise).square().sum(), weights)
    check(lambda w: ld.transition(Learned(w), 0.5, 1.0).sqrt(x_t).pow(3).sum(), weights)
    check(lambda w: ld.transition(Learned(w), 0.5, 1.0).solve(x_t).pow(3).sum(), weights)
    check(lambda w: Learned(w).correct(lambda v: v / (v.square() + 0.1), mean_s, x_t).square().sum(), weights)


def test_a_residual_of_zero_has_a_gradient():
    """Where y = M x nothing is corrected, and the length of what Lanczos starts from is zero."""
    weights, x = WEIGHTS["apart"], draw((4,), 2)
    y = (weights * x).detach()
    check(lambda w: Gain(w).correct(lambda v: 1 / (1 + v), x, y).square().sum(), weights)
    x = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: Gain(weights).correct(lambda v: 1 / (1 + v), a, y), x)


def test_spaces_that_end_early_have_right_gradients():
    """Starts that are eigenvectors: the space has one dimension, the derivative needs others."""
    weights = WEIGHTS["apart"]
    x = torch.eye(4, dtype=torch.float64)[:2]
    check(lambda w: Gain(w).gram_function(lambda v: (1 - v).sqrt(), x).square().sum(), weights)
    mixing = 0.2 * draw((4, 4)) + torch.diag(weights)
    check(lambda w: Learned(w).gram_function(lambda v: 1 / (1 + v), x).pow(3).sum(), mixing)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gradcheck_by_the_vectors(eta):
    operator = ld.testing.Opaque(ld.Resize((1, 8), 4))
    x_t, mean_s, noise = (
        draw(shape, 2, seed=i).requires_grad_() for i, shape in enumerate((operator.out_shape, (1, 8), (1, 8)))
    )
    assert torch.autograd.gradcheck(
        lambda a, b, c: ld.ddim_kernel(a, b, operator, 0.5, 0.6, eta).sample(c), (x_t, mean_s, noise)
    )


def test_second_derivatives_by_the_vectors():
    operator = ld.testing.Opaque(ld.Resize((1, 8), 4))
    x = draw((1, 8), 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: operator.gram_function(lambda u: (1 - u).sqrt(), v).pow(3).sum(), x)


def test_second_derivatives_by_parameters_are_refused():
    weights = WEIGHTS["apart"].clone().requires_grad_()
    loss = Gain(weights).gram_function(lambda v: (1 - v).sqrt(), draw((4,))).sum()
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(loss, weights, create_graph=True)


def test_gradients_by_the_parameters_of_the_function():
    a = draw((5, 5))
    a, v = a @ a.T + torch.eye(5, dtype=torch.float64), draw((5,), 3)

    def loss(power: torch.Tensor) -> torch.Tensor:
        return ld.lanczos_function(lambda x: x @ a, v, lambda u: u**power, event_ndim=1).square().sum()

    check(loss, torch.tensor([0.3], dtype=torch.float64))


def test_learning_a_degradation_by_gradient_descent():
    """A module inside an operator: its parameters learn the blur that made the data."""
    convolution = nn.Conv1d(1, 1, 3, padding=1, bias=False).double()

    class Blur(ld.LinearOperator):
        def __init__(self) -> None:
            super().__init__((1, 6), (1, 6))
            self.convolution = convolution

        def apply(self, x):
            return self.convolution(x)

    truth = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64)
    x = draw((1, 6), 4)
    target = ld.testing.Opaque(ld.Convolution(truth[0, 0], (1, 6), "zeros")).gram_function(lambda v: v.sqrt(), x)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[[0.1, 0.7, 0.1]]]))
    optimizer = torch.optim.Adam(convolution.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (Blur().gram_function(lambda v: v.sqrt(), x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("wrap", [lambda op: op, lambda op: 0.5 * op, lambda op: op @ op, ld.testing.Opaque])
@pytest.mark.parametrize("density", ["posterior", "transition", "coloured"])
def test_log_densities_have_the_gradient_of_their_determinants(wrap, density):
    """A learned degradation by maximum likelihood: most of the gradient is that of log det Σ."""
    x, y, z = (draw((4,), 3, seed=seed) for seed in range(3))
    colour = ld.covariance.GramCovariance(ld.Diagonal(torch.tensor([1.0, 1.2, 1.4, 1.6])))

    def loss(weight: torch.Tensor) -> torch.Tensor:
        op = wrap(Gain(weight))
        if density == "posterior":
            return ld.posterior(x, y, op, 0.5, 1.0).log_prob(z).sum()
        covariance = ld.transition(op, 0.5, 1.0 if density == "transition" else colour)
        return ld.Gaussian(y, covariance).log_prob(z).sum()

    check(loss, torch.tensor([0.9, 0.9, 0.4, 0.2], dtype=torch.float64))
