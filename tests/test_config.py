"""Objects that are their arguments: equality, printing, and to JSON and back."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import lineardiffusion as ld
from lineardiffusion.config import Configured, configured, from_config
from lineardiffusion.schedules import grids


@configured("tests.Leaf")
class Leaf(Configured):
    def __init__(self, weights, shape=(1, 2), *, scale=1.0, name=None):
        self.weights, self.shape, self.scale, self.name = weights, tuple(shape), scale, name


@configured("tests.Tree", without=["network"])
class Tree(Configured):
    def __init__(self, network, leaves, options=None):
        self.network, self.leaves, self.options = network, leaves, options


class Nameless(Configured):
    def __init__(self, size=3):
        self.size = size


@configured("tests.Renamed")
class Renamed(Configured):
    """What `__init__` was given is kept under other names."""

    def __init__(self, size):
        self._kept = size

    def arguments(self):
        return {"size": self._kept}


EVERY = [
    ld.schedules.linear(20, beta_end=0.3),
    ld.schedules.cosine(7, offset=0.1),
    ld.schedules.cosine_log_snr(12, log_snr_max=8.0),
    ld.schedules.cosine_log_snr(None),
    ld.schedules.from_alpha_bar(torch.tensor([1.0, 0.3, 0.1])),  # float32, kept to the last digit
    ld.schedules.table(signal=[1.0, 0.9, 0.0], sigma=np.array([0.0, 0.2, 1.0])),
    ld.schedules.CovarianceTable([0.0, 0.1, 0.4], signal=[1.0, 0.9, 0.7]),
    ld.schedules.flow(shift=3.0),
    ld.schedules.edm(rho=5.0),
    ld.schedules.vp(),
    ld.schedules.sub_vp(beta_max=10.0),
    ld.schedules.ve(sigma_max=9.0),
    ld.schedules.piecewise([0, 0.5, 0.5, 2], [1, 0.5, 0.3, 0], [0, 0.4, 0.6, 1]),
    ld.schedules.zero_terminal_snr(ld.schedules.linear(20)),
    ld.equal_levels(),
    ld.convex_decay(0.5),
    ld.tanh_like(2.0),
    ld.sigmoid_like(2.0),
    ld.information_matched(),
    ld.snr_matched(torch.tensor([[3.0, 0.1], [0.7, 0.2]]), threshold=0.2),
    ld.changes_at([3, 7]),
    ld.changes_at([0.25, 0.5]),
    grids.uniform(5),
    grids.trailing(5),
    grids.leading(5),
    grids.karras(5, sigma_min=0.1),
    grids.log_snr(5),
    ld.times.ByShape(0.25),
    ld.times.Mixed(4, shares=[0.5, 0.25, 0.25]),
    ld.times.Uniform(),
    ld.times.LogitNormal(std=2.0),
    ld.times.LogNormalSigma(),
]


@pytest.mark.parametrize("thing", EVERY, ids=repr)
def test_everything_comes_back_from_json_and_copies(thing):
    config = thing.to_config()
    again = ld.from_config(json.loads(json.dumps(config)))
    assert type(again) is type(thing)
    for other in (again, copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert other == thing
        assert hash(other) == hash(thing)
        assert repr(other) == repr(thing)
        assert other.to_config() == config
    assert [other for other in EVERY if other == thing] == [thing]


def test_printing_shows_what_differs_from_the_defaults():
    assert repr(ld.schedules.linear(1000)) == "linear(1000)"
    assert repr(ld.schedules.linear(1000, beta_end=0.02)) == "linear(1000, beta_end=0.02)"
    assert repr(ld.schedules.zero_terminal_snr(ld.schedules.cosine(10))) == "zero_terminal_snr(cosine(10))"
    assert repr(Leaf(torch.ones(2, 3), name="a")) == "Leaf(<2 × 3 numbers>, name='a')"
    assert repr(Leaf(list(range(100)))) == "Leaf([0, 1, …, 99])"
    assert (
        repr(Tree(torch.nn.Linear(1, 1), [Nameless(), Nameless(4)])) == "Tree(Linear, [Nameless(), Nameless(size=4)])"
    )
    assert repr(Leaf(torch.relu)) == "Leaf(relu)"


def test_equality_is_that_of_values():
    same = [[1.0, 0.1], (1.0, 0.1), np.array([1.0, 0.1]), torch.tensor([1.0, 0.1], dtype=torch.float64)]
    for weights in same:
        assert Leaf(weights) == Leaf(same[0])
        assert hash(Leaf(weights)) == hash(Leaf(same[0]))
    for weights in ([1.0, 0.2], [1.0], [[1.0, 0.1]], torch.tensor([1.0, 0.1]), 1.0, "1", None, [1.0, None], {}):
        assert Leaf(weights) != Leaf(same[3])
    assert Leaf(torch.tensor(2.0)) == Leaf(2)
    assert hash(Leaf(torch.tensor(2.0))) == hash(Leaf(2))
    assert Leaf({"a": same[0]}) == Leaf({"a": same[3]}) != Leaf({"b": same[0]})
    assert hash(Leaf({"a": same[0]})) == hash(Leaf({"a": same[3]}))
    assert Leaf(1, scale=2.0) != Leaf(1)
    assert Leaf(3) != Nameless(3)
    assert Nameless(3) != 3
    module = torch.nn.Linear(1, 1)
    assert Leaf(module) == Leaf(module) != Leaf(torch.nn.Linear(1, 1))
    assert Renamed(2) == Renamed(2) != Renamed(3)


def test_config_has_what_json_knows():
    leaf = Leaf(torch.tensor([[0.5, 0.1]]), shape=(3, np.int64(4)), scale=np.float64(0.1))
    assert leaf.to_config() == {
        "type": "tests.Leaf",
        "weights": [[0.5, 0.10000000149011612]],
        "shape": [3, 4],
        "scale": 0.1,
        "name": None,
    }
    assert Renamed(2).to_config() == {"type": "tests.Renamed", "size": 2}


def test_what_a_config_leaves_out_is_given_to_all_that_need_it():
    network = torch.nn.Linear(1, 1)
    tree = Tree(network, [Leaf([1.0]), Tree(network, [])], options={"leaf": Leaf(2.0), "depth": 3})
    config = json.loads(json.dumps(tree.to_config()))
    assert "network" not in json.dumps(config)
    assert from_config(config, network=network) == tree
    assert from_config(config, network=network).leaves[1].network is network
    with pytest.raises(ValueError, match=r"'network', to be passed as from_config\(config, network="):
        from_config(config)
    with pytest.raises(ValueError, match="size: expected arguments that the configuration leaves out"):
        from_config(config, network=network, size=3)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: from_config({"type": "tests.Nothing"}), ValueError, "type: expected one of .*, got 'tests.Nothing'"),
        (lambda: from_config({}), ValueError, "type: expected one of .*schedules.flow.*, got None"),
        (lambda: from_config({"type": ["a"]}), ValueError, "type: expected one of"),
        (lambda: from_config("schedules.flow"), TypeError, "config: expected a mapping, .* got str"),
        (
            lambda: from_config({"type": "schedules.flow", "shft": 3.0}),
            ValueError,
            "schedules.flow: expected some of the arguments shift, got 'shft'",
        ),
        (lambda: from_config({"type": "schedules.linear"}), ValueError, "linear: expected the argument 'num_steps'$"),
        (lambda: from_config({"type": "schedules.flow", "shift": -1}), ValueError, "shift: expected a positive number"),
        (lambda: Nameless().to_config(), TypeError, "Nameless: expected a class with a public name"),
        (lambda: Leaf(torch.relu).to_config(), TypeError, "tests.Leaf: weights: expected numbers.*got relu"),
        (lambda: Leaf([torch.nn.ReLU()]).to_config(), TypeError, "tests.Leaf: weights: expected .* got ReLU"),
        (lambda: Leaf(ld.Identity((2,))).to_config(), TypeError, "tests.Leaf: weights: expected"),
        (lambda: configured("schedules.flow")(Nameless), ValueError, "name: expected one that no class has"),
    ],
)
def test_bad_arguments(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_a_class_may_be_defined_again():
    """As when a cell of a notebook is run twice; a subclass has no public name before it is given one."""
    again = configured("tests.Leaf")(type("Leaf", (Leaf,), {"__qualname__": "Leaf", "__module__": __name__}))
    assert type(from_config({"type": "tests.Leaf", "weights": 1})) is again
    assert type(from_config(configured("tests.Leaf")(Leaf)(2).to_config())) is Leaf
    with pytest.raises(TypeError, match="public name"):
        type("Leaflet", (Leaf,), {})(1).to_config()


def test_a_family_is_the_process_of_its_path_and_schedule():
    process = ld.DDPM((1, 8), 10)
    again = from_config(json.loads(json.dumps(process.to_config())))
    assert type(again) is ld.DDPM
    assert again == process == ld.LinearDiffusion(process.path, process.schedule)
