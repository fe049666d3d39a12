r"""Denoisers: a network turned into an estimate of the clean image.

A step t → s needs μ_s = M_{1:s} x_0 = a_s c_s only, so that is what a denoiser estimates, in data range: c_s = R_s x_0.
Where the resolution grows from t to s, c_s is larger than x_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lineardiffusion._checks import (
    Shape,
    as_choice,
    check_batch,
    check_event,
    check_function,
    check_kind,
    check_tensor,
    compute_dtype,
    in_dtype,
    is_batch,
)
from lineardiffusion.carrying import Carrier, Lift
from lineardiffusion.config import Configured, configured
from lineardiffusion.descriptions import description, differences
from lineardiffusion.networks import accepts_size, as_tensor, of_shape, refusal
from lineardiffusion.predictions import (
    Clean,
    Data,
    Noise,
    Prediction,
    ProcessPrediction,
    as_prediction,
    combine,
    just_below,
    levels,
    name_of,
)
from lineardiffusion.processes.base import LinearDiffusion
from lineardiffusion.time_inputs import TimeInput, as_time_input, time_given

_KNOWN_TIMES = 4096


@configured("Denoiser", without=["network"])
class Denoiser(nn.Module, Configured):
    r"""An estimate of c_s from x_t, for the process and the kind of prediction its network is trained for.

    The network's answer becomes a clean image ĉ_r by the rule of its prediction (`lineardiffusion.predictions`), and
    that is carried to s: by the degradation R_{r→s} where r < s, by its damped inverse where s < r
    (`lineardiffusion.carrying`). What the network returns is, for

        "clean"      c just below t (c_{t−1}, with steps), at the shape it has there;
        "data"       x_0: then ĉ_s = R_s x̂_0 for every s, and nothing has to be undone;
        "noise"      ε; not where a process ends without signal, a_T = 0;
        "velocity"   a_t ε − σ_t c_t;
        "flow"       ε − c_t;
        ld.EDMPrediction(sigma_data)   the F of EDM's preconditioning.

    Where the noise is not isotropic, ε is what is white; `predictions.ColouredNoise` is the noise as it is.

    The last four tell nothing of the detail that a change of shape adds, and need a `lift` in processes that have one;
    the last three need isotropic noise.

    Two denoisers are equal if everything but their networks is. A state dict says which denoiser it is of, and no other
    loads it; of processes made of operators of one's own it knows the shapes and levels alone.

    Arguments:
        network: called as network(x, time, **conditioning), x of shape (B, *shape(t)) in the dtype of its (first
            floating-point) parameters; all other arithmetic is in float32 or better. Where the process changes shape it
            is also told the size=(H, W) that it is to return, if it takes that. It may return an object that has the
            tensor as `.sample`, as diffusers' do, or 2C channels, the first half of which is meant (learned variances).
        process: the diffusion process.
        prediction: what the network returns: a name above, or an object.
        time_input: what it is told as `time`, a tensor (B,) of integers where t is one in a process with steps and of
            floats elsewhere:

                "index"    t − 1, as in DDPM, ADM and diffusers; without steps t itself
                "time"     t
                "log_snr"  ln a_t²/σ_t²
                "edm"      ¼ ln σ_t/a_t
                a function of the process and of t as a tensor (B,), which returns a tensor (B, …), such as those in
                `lineardiffusion.time_inputs`

            By default "edm" for EDMPrediction, else "index". Where a_T = 0 the third and fourth are infinite at T.
        lift: "pseudoinverse": where the shape grows, ĉ_s = R⁺ĉ_t, without detail, is the estimate.

    Raises:
        TypeError: an argument of a wrong kind, or a network that cannot be told the size it is to return.
        ValueError: an unknown prediction, time input or lift, or a prediction that the process does not define.

    Examples:
        >>> import torch, lineardiffusion as ld
        >>> p = ld.ScaleSpaceDiffusion((1, 8, 8), levels=2, num_steps=10)
        >>> d = ld.Denoiser(lambda x, index, size: x.new_zeros(len(x), 1, *size), p)
        >>> d(torch.zeros(4, *p.shape(8)), t=8).shape  # from 4 × 4 to 8 × 8
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        network: Callable[..., Any],
        process: LinearDiffusion,
        prediction: str | Prediction = "clean",
        time_input: TimeInput | None = None,
        lift: Lift | None = None,
    ) -> None:
        super().__init__()
        _check_kinds(network, process)
        self.prediction = as_prediction(prediction)
        self.time_input = as_time_input(self.prediction.time_input if time_input is None else time_input)
        if lift is not None:
            as_choice(lift, get_args(Lift), "lift", other=" or None")
        self.prediction.check(process)
        changes = bool(process.shape_changes())
        if changes and self.prediction.keeps_shape and lift is None:
            raise ValueError(
                f"prediction: expected 'clean' or 'data' for a process that changes shape, got {prediction!r}: it does "
                f"not determine the detail that a larger x_s adds; lift='pseudoinverse' takes the estimate without it"
            )
        self.takes_size = changes and accepts_size(network)
        if changes and isinstance(self.prediction, Clean) and not self.takes_size:
            raise TypeError(
                "network: expected one with a parameter `size`, the spatial sizes of what it is to return, as this "
                "process changes shape: network(x, time, size=(H, W), **conditioning)"
            )
        self.network, self.process, self.lift = network, process, lift
        self._carrier = Carrier(process, lift)
        self._is_image = isinstance(self.prediction, (Clean, Data))
        # Whether ε is that of noise which is not.
        self._is_white = isinstance(self.prediction, Noise) and not process.is_isotropic
        self._known: dict[float, _At] = {}

    # ------------------------------------------------------------------ estimates

    if TYPE_CHECKING:  # nn.Module's returns Any

        def __call__(self, x_t: Tensor, t: float | Tensor, s: float | None = None, **conditioning: Any) -> Tensor: ...

    def forward(self, x_t: Tensor, t: float | Tensor, s: float | None = None, **conditioning: Any) -> Tensor:
        r"""Estimate of c_s.

        Arguments:
            x_t: states, with shape (B, *shape(t)).
            t: one time for all, or a tensor (B,) of times that share shape(t) and the shape just below t.
            s: the earlier time; by default, and always for a tensor of times, the one just below t (t − 1 with steps).
                It has the shape that there is just below t, unless the network tells of x_0.
            conditioning: passed on to the network.

        Returns:
            c_s, with shape (B, *shape(s)) and the dtype of x_t, whatever that of the network.

        Raises:
            ValueError: times out of range or of different shapes, x_t of a wrong shape, or a network that returns one.
        """
        if not is_batch(t):
            t = self.process.time(t, low="above")
            s = self._earlier(t, s)
            clean, r = self.estimate(x_t, t, **conditioning)
            return self._carrier(clean, r, s).to(x_t.dtype)
        if s is not None:
            raise ValueError("s: expected None where t is a tensor of times")
        clean, r = self.estimate(x_t, t, **conditioning)
        below = just_below(self.process, t)
        if not isinstance(r, Tensor):  # of the data
            clean = self.process.clean(clean, below)
        elif not isinstance(self.prediction, Clean):
            clean = self._carrier.rows(clean, r, below)
        return clean.to(x_t.dtype)

    def estimate(self, x_t: Tensor, t: float | Tensor, **conditioning: Any) -> tuple[Tensor, Any]:
        """What one call of the network says of the clean image.

        Arguments:
            x_t, t, conditioning: as for `forward`.

        Returns:
            ĉ_r, in float32 or better, and r, the time whose degradation it has: just below t for "clean", 0 for "data",
            else t.
        """
        output = self.output(x_t, t, **conditioning)
        if is_batch(t):
            p, q = self.prediction.estimate(*levels(self.process, t, output.device))
            r = self.prediction.time(self.process, t)
        else:
            at = self._at(t)
            (p, q), r = at.estimate, at.r
        if self._is_image:  # p = 0 and q = 1
            return output, r
        x = in_dtype(x_t, output.dtype)
        if isinstance(self.prediction, ProcessPrediction):
            return self.prediction.image(self.process, t, x, output), r
        if self._is_white:
            x, q = self.process.add_noise(x, t, -output), 0.0
        return combine(p, x, q, output), r

    def carry(self, clean: Tensor, r: float, s: float) -> Tensor:
        """ĉ_s from ĉ_r (`lineardiffusion.carrying`).

        Raises:
            ValueError: times out of range, or the shape grows from r to s, and there is no lift.
        """
        check_tensor(clean, "clean")
        return self._carrier(clean, r, s)

    def output(self, x_t: Tensor, t: float | Tensor, **conditioning: Any) -> Tensor:
        """F, what the network returns, with shape (B, *shape(r)), in float32 or better; arguments as for `forward`."""
        if is_batch(t):
            t, shape, expected = self._shapes(x_t, t)
        else:
            t, shape, expected, *_ = self._at(t)
        return self._called(x_t, t, shape, expected, conditioning)

    def _called(
        self, x_t: Tensor, t: float | Tensor, shape: Shape, expected: Shape, conditioning: dict[str, Any]
    ) -> Tensor:
        """`output` at checked times, with the shapes of x_t and of what the network is to return."""
        check_event(x_t, shape, "x_t")
        if x_t.ndim != len(shape) + 1:
            check_batch(x_t, shape, "x_t")
        dtype = compute_dtype(x_t.dtype)
        work = in_dtype(x_t, dtype)
        weight = first_weight(self.network) if isinstance(self.network, nn.Module) else None
        given_dtype = dtype if weight is None else weight.dtype
        given = work
        if self.prediction.scales_input:
            given = combine(self.prediction.input_scale(*levels(self.process, t, work.device)), work, 0.0, work)
        time = time_given(self.time_input, self.process, t, work, compute_dtype(given_dtype))
        size = {"size": expected[1:]} if self.takes_size else {}
        given = in_dtype(given, given_dtype)
        try:
            answer = self.network(given, time, **size, **conditioning)
        except (TypeError, RuntimeError) as error:
            reason = refusal(self.network, given, weight, {**size, **conditioning})
            if reason is None:
                raise
            raise reason from error
        return in_dtype(of_shape(as_tensor(answer), (x_t.shape[0], *expected)), dtype)

    # ------------------------------------------------------------------ times

    def _earlier(self, t: float, s: float | None) -> float:
        """s of a step from t, checked."""
        process, below = self.process, self.process.before(t)
        if s is None:
            return below
        s = process.time(s, "s")
        if s >= t:
            raise ValueError(f"s: expected s < t = {t}, got {s}")
        if self._at(t).r != 0 and process.shape(s) != process.shape(below):
            raise ValueError(
                f"s: expected the shape just below t, {process.shape(below)}, got s = {s} of shape {process.shape(s)}; "
                f"steps over a change of shape must start at one of {process.shape_changes()}"
            )
        return s

    def _at(self, t: float) -> _At:
        """All that is asked of one time, found once: a sampler comes back to the same ones."""
        known = self._known.get(t) if isinstance(t, (int, float)) else None
        if known is None:
            process, prediction = self.process, self.prediction
            t = process.time(t, low="above")
            r = prediction.time(process, t)
            estimate = prediction.estimate(*levels(process, t, torch.device("cpu")))
            if len(self._known) >= _KNOWN_TIMES:
                self._known.clear()
            known = self._known[t] = _At(t, process.shape(t), process.shape(r), r, estimate)
        return known

    def _shapes(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Shape, Shape]:
        """Times, checked, and the shapes of x_t and of what the network is to return."""
        process, time = self.process, self.prediction.time
        check_tensor(x_t, "x_t")
        t = process.times(t, len(x_t) if x_t.ndim else None, low="above")
        if not process.shape_changes():
            return t, process.shape(0), process.shape(0)
        pairs = {(process.shape(u), process.shape(time(process, u))) for u in set(t.tolist())}
        if len(pairs) > 1:
            raise ValueError(
                f"t: expected times that share shape(t) and the shape just below t, got {sorted(pairs)}; draw them "
                f"with process.sample_timesteps (ld.times.ByShape), or take the parts of process.group_by_shape(t)"
            )
        return t, *pairs.pop()

    # ------------------------------------------------------------------ configuration

    def arguments(self) -> dict[str, object]:
        return {
            "process": self.process,
            "prediction": name_of(self.prediction),
            "time_input": self.time_input,
            "lift": self.lift,
        }

    def __hash__(self) -> int:
        return id(self)  # modules are told apart by it

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments().items())

    def get_extra_state(self) -> Tensor:
        return description(self)

    def set_extra_state(self, state: Tensor) -> None:
        check_tensor(state, "state")
        found = differences(self.get_extra_state(), state)
        if found:
            raise ValueError(
                f"state_dict: weights of another denoiser: {'; '.join(found)} (denoiser.network.load_state_dict takes "
                f"them all the same)"
            )


class _At(NamedTuple):
    """A time t, the shapes of x_t and of what the network returns, r, and (p, q) of ĉ_r = p x_t + q F."""

    t: float
    shape: Shape
    expected: Shape
    r: float
    estimate: tuple[Any, Any]


def first_weight(module: nn.Module) -> Tensor | None:
    """The first parameter that a network may compute in (not one of integers or of 8 bits): it says in which dtype, and
    on which device, the network wants its input."""
    return next((p for p in module.parameters() if p.is_floating_point() and p.itemsize > 1), None)


def _check_kinds(network: object, process: object) -> None:
    if isinstance(network, LinearDiffusion) and not isinstance(process, LinearDiffusion):
        raise TypeError("network, process: expected ld.Denoiser(network, process), got them in the other order")
    check_function(network, "network", "a module or another function of (x, time)")
    check_kind(process, LinearDiffusion, "process", "a LinearDiffusion, such as ld.DDPM(shape)")
