"""How often Lanczos' method is wrong by more than it says, over thousands of small random problems.

    python benchmarks/lanczos.py                    5000 problems for each dtype, two minutes; writes
                                                    benchmarks/results/lanczos.json and the table in docs/benchmarks.md
    python benchmarks/lanczos.py --problems 500     fewer; prints, and writes nothing

Each problem is a matrix M of 3…200 rows and columns with a random, clustered, geometric or rank-deficient spectrum, a
function of its Gram matrix, with ρλmax between 0.1 and 1, and a batch of one to four vectors, easy and hard:

    square root      √(1 − ρλ), the noise of posteriors
    inverse          1/(1 − ρλ), of their densities
    damped inverse   Mᵀ (λ² + τ²)⁻¹ λ, of denoisers
    DDIM noise       √C of `ddim_kernel`, smooth at zero
    DDIM gain        g of its mean

A row is a *silent miss* where its true error, against a singular value decomposition in float64, is above three times
max(tol, stated error). Errors are relative to max(‖y‖, 1e-3 ‖x‖ max|f|), those of DDIM noise, which may vanish
altogether, to its greatest deviation, ‖x‖ f(0). Ends with an error where more than 0.1 % of the rows are.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lineardiffusion.convergence import for_noise
from lineardiffusion.kernels import isotropic_kernel
from lineardiffusion.lanczos import adjoint_lanczos, gram_lanczos
from runs import write_table
from timing import environment

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "lanczos.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"

TOLERANCE, FACTOR, VANISHING, ALLOWED = 1e-6, 3.0, 1e-3, 1e-3
FUNCTIONS = ("square root", "inverse", "damped inverse", "DDIM noise", "DDIM gain")
SPECTRA = ("random", "clustered", "geometric", "deficient")

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """f(MᵀM) x, or Mᵀ f(MMᵀ) x where `adjoint`; x in float64, exact in the dtype that the problem is made for."""

    spectrum: str
    function: str
    tightness: float  # ρ λmax
    matrix: Tensor
    vectors: Tensor
    f: Function
    adjoint: bool

    @property
    def noise(self) -> bool:
        """Whether an error counts against the greatest deviation."""
        return self.function == "DDIM noise"

    def exact(self) -> tuple[Tensor, Tensor]:
        """The result, and the length that errors are relative to, (B,)."""
        left, singular, right = torch.linalg.svd(self.matrix, full_matrices=True)
        squared = singular.square()
        if self.adjoint:
            images = self.f(squared) * singular
            y = (self.vectors @ left[:, : len(singular)] * images) @ right[: len(singular)]
        else:
            images = self.f(torch.cat([squared, squared.new_zeros(len(right) - len(singular))]))
            y = (self.vectors @ right.T * images) @ right
        largest = self.f(squared.new_zeros(())).abs() if self.noise else VANISHING * images.abs().max()
        return y, torch.maximum(y.norm(dim=1), self.vectors.norm(dim=1) * largest)


def problems(count: int, dtype: torch.dtype) -> Iterator[Problem]:
    """The same problems whenever they are asked for; of each the numbers are exact in the dtype."""
    for seed in range(count):
        yield _problem(seed, dtype)


def _problem(seed: int, dtype: torch.dtype) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    columns, rows = (round(math.exp(uniform(math.log(3), math.log(200)))) for _ in range(2))
    k = min(columns, rows)
    spectrum = SPECTRA[integer(0, 3)]
    if spectrum == "clustered":
        centres = torch.rand(integer(1, 4), generator=generator, dtype=torch.float64)
        chosen = centres[torch.randint(len(centres), (k,), generator=generator)]
        singular = chosen * (1 + 10 ** uniform(-8, -1) * normal(k)).abs()
    elif spectrum == "geometric":
        singular = torch.logspace(0, -uniform(0.5, 8), k, dtype=torch.float64)
    else:
        singular = torch.rand(k, generator=generator, dtype=torch.float64)
    if spectrum == "deficient":
        singular[integer(1, k) :] = 0
    left, right = (torch.linalg.qr(normal(n, k))[0] for n in (rows, columns))
    matrix = left @ torch.diag(singular / singular.max()) @ right.T * 10 ** uniform(-2, 2)
    matrix = matrix.to(dtype).double()
    _, singular, right = torch.linalg.svd(matrix, full_matrices=False)

    tightness = (uniform(0.1, 0.9), 0.9, 0.99, 0.999, 0.9999, 1.0)[integer(0, 5)]
    rows_of_batch = [_vector(right, integer(0, 3), integer, normal) for _ in range(integer(1, 4))]
    vectors = torch.stack([10 ** uniform(-3, 3) * row for row in rows_of_batch])
    available = FUNCTIONS if tightness < 1 else tuple(name for name in FUNCTIONS if name != "inverse")
    function = available[seed % len(available)]
    f = _function(function, float(singular.square().max()), tightness, uniform, integer)
    adjoint = function in ("damped inverse", "DDIM gain")
    if adjoint:
        vectors = vectors @ matrix.T if integer(0, 1) else normal(len(vectors), rows)
    return Problem(spectrum, function, tightness, matrix, vectors.to(dtype).double(), f, adjoint)


def _vector(right: Tensor, kind: int, integer: Callable[[int, int], int], normal: Callable[..., Tensor]) -> Tensor:
    """A few singular vectors, the first half of them, or anything."""
    k = len(right)
    if kind == 0:
        return normal(min(3, k)) @ right[[integer(0, k - 1) for _ in range(min(3, k))]]
    x = normal(right.shape[1])
    return (x @ right[: max(1, k // 2)].T) @ right[: max(1, k // 2)] if kind == 1 else x


def _function(
    name: str,
    top: float,
    tightness: float,
    uniform: Callable[[float, float], float],
    integer: Callable[[int, int], int],
) -> Function:
    rho = tightness / top
    if name == "square root":
        return lambda values: (1 - rho * values).clamp(min=0).sqrt()
    if name == "inverse":
        return lambda values: 1 / (1 - rho * values)
    if name == "damped inverse":
        damping = (top * 10 ** uniform(-3, -0.5)) ** 2
        return lambda values: values / (values.square() + damping)
    eta, smoothing = (0.0, 0.5, 0.9)[integer(0, 2)], top / 50
    gain, variance = isotropic_kernel(1.0, math.sqrt(1 / rho), eta, smoothing)
    if name == "DDIM noise":
        return lambda values: variance(values).sqrt()
    floor = 1e-30 * top  # g = k/√λ has the limit √(1/(ρ⁻¹ δ)) there
    return lambda values: gain(values.clamp(min=floor)) / values.clamp(min=floor).sqrt()


class Counted:
    """The products with M and Mᵀ."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.products = matrix, 0

    def forward(self, x: Tensor) -> Tensor:
        self.products += 1
        return x @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix


def measure(count: int, dtype: torch.dtype) -> dict[str, Any]:
    """How many rows, silent misses, warned problems and products there are, by function; and the misses one by one."""
    by_function = {name: {"rows": 0, "misses": 0, "problems": 0, "warned": 0, "products": 0} for name in FUNCTIONS}
    misses: list[dict[str, Any]] = []
    for seed, problem in enumerate(problems(count, dtype)):
        counted = Counted(problem.matrix.to(dtype))
        rows, columns = problem.matrix.shape
        evaluate = adjoint_lanczos if problem.adjoint else gram_lanczos
        evaluate = for_noise(evaluate) if problem.noise else evaluate
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result, info = evaluate(
                counted.forward, counted.adjoint, problem.f, problem.vectors.to(dtype), (columns,), (rows,)
            )
        exact, scale = problem.exact()
        errors = (result.double() - exact).norm(dim=1) / scale.clamp(min=torch.finfo(torch.float64).tiny)
        missed = ~(errors <= FACTOR * info.error.clamp(min=TOLERANCE))
        part = by_function[problem.function]
        for key, value in (("rows", len(errors)), ("misses", int(missed.sum())), ("problems", 1),
                           ("warned", int(bool(caught))), ("products", counted.products)):  # fmt: skip
            part[key] += value
        misses += [
            {"seed": seed, "function": problem.function, "spectrum": problem.spectrum, "ρλmax": problem.tightness,
             "error": float(errors[i]), "stated": float(info.error[i])}
            for i in missed.nonzero().flatten().tolist()
        ]  # fmt: skip
    return {"functions": by_function, "misses": misses}


def total(result: dict[str, Any], key: str) -> int:
    return sum(part[key] for part in result["functions"].values())


def table(results: dict[str, Any]) -> str:
    lines = [
        "| dtype | function | rows | silent misses | problems | of them warned | products for each |",
        "|---|---|---|---|---|---|---|",
    ]
    for dtype, result in results["dtypes"].items():
        everything = {key: total(result, key) for key in ("rows", "misses", "problems", "warned", "products")}
        for name, part in [*result["functions"].items(), ("**all**", everything)]:
            share = 100 * part["misses"] / part["rows"]
            cells = (dtype, name, part["rows"], f"{part['misses']} ({share:.3f} %)", part["problems"], part["warned"])
            lines.append("| " + " | ".join(map(str, cells)) + f" | {part['products'] / part['problems']:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, help="how many for each dtype, in the place of 5000 and without a file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = arguments.problems or 5000
    dtypes = {str(dtype).removeprefix("torch."): measure(count, dtype) for dtype in (torch.float64, torch.float32)}
    results = {"environment": environment(), "tolerance": TOLERANCE, "problems": count, "dtypes": dtypes}
    print(table(results))
    if arguments.problems is None:
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_table(PAGE, "lanczos", table(results))
    too_many = [name for name, result in dtypes.items() if total(result, "misses") > ALLOWED * total(result, "rows")]
    for name in too_many:
        print(f"MISSED: more than {100 * ALLOWED} % of the rows in {name} are silent misses", file=sys.stderr)
    return int(bool(too_many))


if __name__ == "__main__":
    sys.exit(main())
