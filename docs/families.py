"""The page of families, from their files: python docs/families.py

Writes what stands between the marks in docs/families.md, and a picture of each forward process (needs the extra
"examples").
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import lineardiffusion as ld
from lineardiffusion.families import Family

PAGE, PICTURES = Path(__file__).parent / "families.md", Path(__file__).parent / "images" / "families"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
SHAPE, COLUMNS, ZOOM, GAP = (3, 64, 64), 8, 2, 4
ROWS = ("paper", "degradation", "noise", "schedule", "prediction", "sampler", "exact")


def families() -> dict[str, type[Family]]:
    """All exported families by name, in the order of their papers."""
    kinds = {
        name: kind for name, kind in vars(ld.families).items() if inspect.isclass(kind) and issubclass(kind, Family)
    }
    del kinds["Family"]
    return dict(sorted(kinds.items(), key=lambda item: (item[1].card.paper[-4:], item[0])))


def first_sentence(kind: type[Family]) -> str:
    """What the file of a family says of it."""
    module = inspect.getmodule(kind)
    return (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ").strip()


def text() -> str:
    """The generated part of the page."""
    lines = ["| family | degradation | noise | exact |", "|---|---|---|---|"]
    for name, kind in families().items():
        card = kind.card
        lines.append(f"| [{name}](#{name.lower()}) | {card.degradation} | {card.noise} | {card.exact} |")
    for name, kind in families().items():
        card = kind.card._asdict()
        card["paper"] = f"[{card['paper']}]({card['url']})"
        lines += ["", f"## {name}", "", first_sentence(kind), "", f"`ld.families.{name}{_signature(kind)}`", ""]
        lines += [f"![x_t of {name}](images/families/{name}.png)", "", "| | |", "|---|---|"]
        lines += [f"| {row} | {card[row]} |" for row in ROWS]
        lines += ["", f"[Parameters and methods][{kind.__module__}.{name}]"]
    return "\n".join(lines)


def _signature(kind: type[Family]) -> str:
    parameters = inspect.signature(kind).parameters.values()
    return f"({', '.join(str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters)})"


def picture(kind: type[Family], image: Tensor) -> Tensor:
    """Pixels (3, H, W) in [0, 1]: above c_t = R_t x_0, below x_t, scaled to the spread of an image, for times from 0 to
    T; smaller states are smaller."""
    process = kind(SHAPE)
    noise = torch.Generator().manual_seed(0)
    size = ZOOM * SHAPE[1] + GAP
    canvas = torch.ones(3, 2 * size, COLUMNS * size)
    for column in range(COLUMNS):
        t = process.end * column / (COLUMNS - 1)
        t = round(t) if process.num_steps else t
        x0 = process.data(image[None])
        x_t = process.diffuse(x0, t, generator=noise) / math.hypot(process.signal_scale(t), process.sigma(t))
        for row, states in enumerate((process.clean(x0, t), x_t)):
            state = (process.images(states) if states.ndim < image.ndim else states)[0]  # of a vector the finest image
            tile = F.interpolate(as_picture(state)[None], scale_factor=ZOOM, mode="nearest")[0]
            height, width = tile.shape[1:]
            canvas[:, row * size : row * size + height, column * size : column * size + width] = tile
    return canvas[:, :-GAP, :-GAP]


def as_picture(state: Tensor) -> Tensor:
    """A state as colours in [0, 1]: of many channels the first three, of coordinates grey values."""
    if state.ndim < 3:
        side = math.ceil(math.sqrt(state.numel()))
        state = F.pad(state.flatten(), (0, side**2 - state.numel())).reshape(1, side, side)
    return (state[:3].expand(3, *state.shape[1:]) / 2 + 0.5).clamp(0, 1)


def example() -> Tensor:
    """A photograph, (3, 64, 64) in [−1, 1]."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1).float() / 127.5 - 1
    side = pixels.shape[1] // SHAPE[1] * SHAPE[1]
    return F.avg_pool2d(pixels[:, :side, 110 : 110 + side], side // SHAPE[1])


def main() -> None:
    from PIL import Image

    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n{text()}\n{END}{tail}", encoding="utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    image = example()
    for name, kind in families().items():
        pixels = (picture(kind, image) * 255).round().byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).quantize(64).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
