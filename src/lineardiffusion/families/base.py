"""What a named system of the literature is: a process, and how its paper trains a network and samples."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from lineardiffusion._checks import check_batch, check_event, rows_of
from lineardiffusion.config import configured
from lineardiffusion.denoiser import Denoiser
from lineardiffusion.losses import Weighting, denoising_loss
from lineardiffusion.paths.base import as_event
from lineardiffusion.predictions import Prediction, as_prediction
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.samplers.base import Sampler
from lineardiffusion.schedules.grids import Steps
from lineardiffusion.times import ByShape, TimeSampler, group_by_shape


class Card(NamedTuple):
    """A row of the page of families: Markdown, with formulas between dollar signs.

    Attributes:
        paper: authors and year.
        url: of the paper.
        degradation, noise, schedule: R_t, Σ_t, and a_t and σ_t.
        prediction: what the network returns.
        sampler: what the paper samples with.
        exact: "exact", or what is approximated.
    """

    paper: str
    url: str
    degradation: str
    noise: str
    schedule: str
    prediction: str
    sampler: str
    exact: str


class Family(LinearDiffusion, ABC):
    """A process of the literature, with what its network predicts, how it is trained and how it is sampled. A subclass
    gives its path and schedule to `LinearDiffusion`, its card, and its `sampler`.

    Attributes:
        card: its row on the page of families.
        prediction: what its network returns (`ld.Denoiser`).
        drawn_times: how the times of a training batch are drawn.
        weighting: of its loss.
    """

    card: ClassVar[Card]
    _given: dict[str, object]
    prediction: str | Prediction = "noise"
    drawn_times: TimeSampler = ByShape()
    weighting: Weighting | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        package = "families" if cls.__module__.startswith("lineardiffusion.") else cls.__module__
        configured(f"{package}.{cls.__name__}")(cls)
        if "sampler" in vars(cls):
            setattr(cls, "sampler", _of_own(vars(cls)["sampler"]))  # noqa: B010 (to mypy a method is no attribute)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # What it is made with is its configuration, though not what makes it equal to another process.
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(self, *args, **kwargs)  # copies are made with nothing
        except TypeError as error:
            known = ", ".join(list(signature.parameters)[1:])
            raise TypeError(f"{cls.__name__}: expected some of the arguments {known}, {error}") from None
        bound.apply_defaults()
        self._given = dict(list(bound.arguments.items())[1:])
        if "shape" in self._given:
            as_event(bound.arguments["shape"])
        return self

    def arguments(self) -> dict[str, object]:
        return self._given

    def denoiser(self, network: Callable[..., Any]) -> Denoiser:
        """A network as the paper trains it: of this process, with its prediction."""
        return Denoiser(network, self, self.prediction)

    @abstractmethod
    def sampler(self, denoiser: Denoiser, steps: Steps = None, **settings: Any) -> Sampler:
        """The paper's sampler, with its constants.

        Arguments:
            denoiser: from `denoiser`.
            steps: as for `ld.DDIMSampler`; the paper's by default.
            settings: of that sampler, such as clip=(−1, 1).

        Raises:
            TypeError, ValueError: another kind of denoiser, or one of another process.
        """

    def data(self, images: Tensor) -> Tensor:
        """What is diffused, x_0, of images (*batch, *shape): here themselves."""
        check_event(images, self.path.shape(0), "images")
        return images

    def images(self, x_0: Tensor) -> Tensor:
        """Images of what a sampler has drawn, x_0."""
        check_event(x_0, self.path.shape(0), "x_0")
        return x_0

    def loss(
        self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator | None = None, **conditioning: Any
    ) -> Tensor:
        """The paper's loss of each image, at times drawn as the paper draws them.

        Arguments:
            denoiser: from `denoiser`.
            x0: data(images), with shape (B, *shape(0)).
            generator: the source of times and noise; the global one by default.
            conditioning: passed on to the network.

        Returns:
            Losses, with shape (B,); their mean is what to minimise.

        Raises:
            TypeError, ValueError: another kind of denoiser, or one of another process.
        """
        check_loss(self, denoiser, x0)
        t = self.drawn_times.sample(self, len(x0), generator)
        parts = group_by_shape(self, t)
        if len(parts) == 1:  # rows stay where they are
            return denoising_loss(denoiser, x0, t, None, self.weighting, generator, **conditioning)
        losses = []
        for part in parts:
            given = {name: of_rows(value, part, len(x0)) for name, value in conditioning.items()}
            own = rows_of(x0, part)
            losses.append(denoising_loss(denoiser, own, t[part], None, self.weighting, generator, **given))
        return rows_of(torch.cat(losses), torch.cat(parts).argsort())


def _of_own(sampler: Callable[..., Sampler]) -> Callable[..., Sampler]:
    """A family's `sampler`, which refuses the denoisers of other processes: with its constants they would sample
    something else without a word."""

    @functools.wraps(sampler)
    def checked(self: Family, denoiser: Denoiser, *arguments: Any, **options: Any) -> Sampler:
        check_denoiser(denoiser, self)
        return sampler(self, denoiser, *arguments, **options)

    return checked


def check_loss(family: Family, denoiser: object, x0: Tensor, prediction: str | Prediction | None = None) -> None:
    """Raise unless a loss of the family is one of this denoiser (`check_denoiser`) and these data, (B, *shape(0))."""
    check_denoiser(denoiser, family, prediction)
    check_batch(x0, family.shape(0), "x0")


def check_denoiser(denoiser: object, family: Family, prediction: str | Prediction | None = None) -> None:
    """Raise unless the denoiser is one of the process, with the prediction that a loss is made for, if it is given."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser: expected one of {type(family).__name__}.denoiser(network), got {type(denoiser).__name__}"
        )
    if denoiser.process is not family and denoiser.process != family:
        raise ValueError(f"denoiser: expected one of this process, {family}, got one of {denoiser.process}")
    if prediction is not None and denoiser.prediction != as_prediction(prediction):
        raise ValueError(f"denoiser: expected one that predicts {prediction!r}, got {denoiser.prediction!r}")


def of_rows(value: Any, rows: Tensor, count: int) -> Any:
    """What belongs to some of `count` rows, where a value has one entry for each."""
    of_each = isinstance(value, Tensor) and value.ndim and len(value) == count
    return rows_of(value, rows) if of_each else value
