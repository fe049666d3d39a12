"""Run by two processes: a model sharded by FSDP 2 is saved whole, and comes back into its shards."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lineardiffusion.training import (
    Checkpoints,
    ExponentialMovingAverage,
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
    state_tensors,
)


def build(sharded: bool) -> tuple[torch.nn.Module, torch.optim.Optimizer, ExponentialMovingAverage]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.SiLU(), torch.nn.Linear(5, 2))
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2), ExponentialMovingAverage(model, 0.9)


def steps(model, optimizer, average, seeds) -> None:
    for seed in seeds:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        average.update(model)


def tensors(model, optimizer, average) -> dict[str, torch.Tensor]:
    sections = {
        "model": state_tensors(model.state_dict()),
        "ema": state_tensors(average.parameters),
        "optimizer": optimizer_tensors(optimizer, model),
    }
    return {f"{section}:{name}": tensor for section, values in sections.items() for name, tensor in values.items()}


def main(folder: Path) -> None:
    distributed.init_process_group("gloo")
    run, single, resumed = build(sharded=True), build(sharded=False), build(sharded=True)
    for parts in (run, single):
        steps(*parts, range(3))
    whole = tensors(*run)
    for name, tensor in tensors(*single).items():  # every process sees the same batch: the mean of equal gradients
        torch.testing.assert_close(whole[name], tensor, rtol=1e-5, atol=1e-7)
    if distributed.get_rank() == 0:
        Checkpoints(folder).save(3, whole, {})
    distributed.barrier()

    steps(*resumed, range(90, 92))  # a state that must not stay
    found = Checkpoints(folder).latest()
    model, optimizer, average = resumed
    restore_tensors(found.section("model"), model.state_dict(), "model")
    restore_tensors(found.section("ema"), average.parameters, "ema")
    restore_optimizer(found.section("optimizer"), optimizer, model)
    average.num_updates = 3
    for parts in (run, resumed):
        steps(*parts, range(3, 6))
    for name, tensor in tensors(*resumed).items():
        assert torch.equal(tensor, tensors(*run)[name]), name
    with average.applied_to(model):
        assert torch.equal(state_tensors(model.state_dict())["0.weight"], state_tensors(average.parameters)["0.weight"])
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # all is checked; gloo's threads do not always survive the interpreter's own end on a busy machine


if __name__ == "__main__":
    main(Path(sys.argv[1]))
