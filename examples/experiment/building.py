def build_process(config: ProcessConfig, shape: tuple[int, int, int]) -> ld.LinearDiffusion:
    """The process of a configuration for images of a shape."""
    if config.family == "ddpm":
        return ld.DDPM(shape, config.num_steps, config.schedule)
    if config.family == "blurring":
        return ld.BlurringDiffusion(shape, config.num_steps, config.blur_sigma_max)
    if config.changes is not None and len(config.changes) != config.levels - 1:
        raise ValueError(f"process.changes: expected {config.levels - 1} times, got {config.changes}")
    schedule = ld.convex_decay(config.decay) if config.changes is None else ld.changes_at(config.changes)
    return ld.ScaleSpaceDiffusion(shape, config.levels, config.num_steps, config.schedule, schedule, config.mode)


def earlier_processes(
    config: ProcessConfig, process: ld.LinearDiffusion, starts: list[int] | None
) -> list[ld.LinearDiffusion]:
    """For each lower resolution that starts earlier than in this process, a process like it in which it does.

    Raises:
        ValueError: starts that do not fit the changes of resolution.
    """
    if starts is None:
        return []
    changes = process.shape_changes()
    if len(starts) != len(changes) or not all(1 <= start <= t for start, t in zip(starts, changes, strict=True)):
        raise ValueError(
            f"optimization.coarse_from: expected times up to the changes of resolution, {changes}, got {starts}"
        )
    return [
        build_process(dataclasses.replace(config, changes=[start] * level + changes[level:]), process.shape(0))
        for level, start in enumerate(starts, start=1)
        if start < changes[level - 1]
    ]


def time_probabilities(process: ld.LinearDiffusion, shares: list[float]) -> Tensor:
    """Of t = 1, …, T, such that each resolution of x_t has its share.

    Raises:
        ValueError: shares that do not fit the resolutions.
    """
    shapes = [process.shape(t) for t in range(1, process.num_steps + 1)]
    levels = list(dict.fromkeys(shapes))
    if len(shares) != len(levels):
        raise ValueError(f"optimization.shares: expected one for each of {levels}, got {shares}")
    of = {shape: share / shapes.count(shape) for shape, share in zip(levels, shares, strict=True)}
    return torch.tensor([of[shape] for shape in shapes], dtype=torch.float64)


def build_network(config: NetworkConfig, shape: tuple[int, int, int], num_classes: int | None) -> torch.nn.Module:
    """The network of a configuration for images of a shape; one more class stands for "no label".

    Raises:
        ValueError: overrides that the network does not take.
    """
    arguments = {**SETTINGS[config.settings], **config.overrides}
    classes = None if num_classes is None else num_classes + 1
    kind = {"flexi": FlexiUNet, "resized": ResizedFlexiUNet, "full": FullUNet}[config.kind]
    try:
        return kind(shape[1:], in_channels=shape[0], out_channels=shape[0], num_classes=classes, **arguments)
    except TypeError as error:
        raise ValueError(f"network.overrides: {error}") from error
