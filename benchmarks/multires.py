"""How fast the levels of Jukebox's VQ-VAE encode, decode and train, beside a plain re-statement of its convolutions.

    python benchmarks/multires.py                  # one thread, 10 s of 44.1 kHz, a few minutes
    python benchmarks/multires.py --seconds 30 --repeats 5 --levels 1 2

The paper's shapes, random weights. Plain is the same layers written one after the other over the whole recording, and
codes found by all distances at once: what a reader of the paper would write. Ours is the codec, which works in blocks
with a halo. A training step is L2 and commitment on one crop, by autograd, with the codebook's moving averages in both:
a dense one-hot in the plain one. The two take turns; medians of processor time; memory is what one training step adds
to the most the process has held, each measured in a process of its own.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from quantizers import seconds
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.level_codec import MultiresCodec
from audiovae.metrics import peak_memory
from audiovae.models import LevelConfig, MultiresConfig
from audiovae.report import Table
from audiovae.shapes import DataSpec

RATE, CROP = 44_100, 65_536


class PlainBlock(nn.Module):
    """relu, dilated convolution, relu, convolution, and the sum."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation),
                                    nn.ReLU(), nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Plain(nn.Module):
    """A level of the paper as it is written there."""

    def __init__(self, row: LevelConfig):
        super().__init__()
        width, powers = row.width, [row.growth**d for d in range(row.depth)]
        down: list[nn.Module] = []
        for i in range(len(row.strides)):
            down += [nn.Conv1d(width if i else 1, width, 4, 2, 1), *(PlainBlock(width, d) for d in powers)]
        self.encoder = nn.Sequential(*down, nn.Conv1d(width, row.dim, 3, padding=1))
        up: list[nn.Module] = [nn.Conv1d(row.dim, width, 3, padding=1)]
        for i in reversed(range(len(row.strides))):
            up += [*(PlainBlock(width, d) for d in reversed(powers)),
                   nn.ConvTranspose1d(width, width if i else 1, 4, 2, 1)]
        self.decoder = nn.Sequential(*up)
        self.register_buffer("codes", torch.randn(row.num_codes, row.dim))
        self.codes: Tensor

    def quantize(self, h: Tensor) -> tuple[Tensor, Tensor]:
        x = h.transpose(1, 2).flatten(0, 1)
        distance = x.square().sum(1, keepdim=True) - 2 * x @ self.codes.T + self.codes.square().sum(1)
        return x, distance.argmin(1)

    def step(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        rows, index = self.quantize(h)
        with torch.no_grad():
            hot = F.one_hot(index, len(self.codes)).float()
            self.codes.lerp_((hot.T @ rows) / (hot.sum(0)[:, None] + 1), 0.01)
        z = self.codes[index]
        loss = 0.02 * (rows - z).square().mean()
        straight = (rows + (z - rows).detach()).view(len(x), -1, z.shape[1]).transpose(1, 2)
        return loss + (self.decoder(straight) - x).square().mean()


def step(model: nn.Module, loss: Callable[[], Tensor]) -> None:
    model.zero_grad(set_to_none=True)
    loss().backward()


def trainers(level: int) -> dict[str, Callable[[], None]]:
    """A training step of each, on one crop."""
    torch.manual_seed(0)
    row = MultiresConfig().levels[level]
    ours, plain = MultiresConfig().build(DataSpec(1, 1, RATE)).each[level].train(), Plain(row)  # type: ignore[arg-type]
    x = 0.1 * torch.randn(1, 1, CROP)

    def loss() -> Tensor:
        out = ours(x)
        return (out.params - x).square().mean() + 0.02 * out.latents[0].losses["commitment"]

    return {"ours": lambda: step(ours, loss), "plain": lambda: step(plain, lambda: plain.step(x))}


def median(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds of each, in turns."""
    return dict(zip(work, seconds(list(work.values()), repeats, time.process_time), strict=True))


@torch.no_grad()
def coding(level: int, length: float, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds to encode, and to decode, a recording."""
    torch.manual_seed(0)
    codec = MultiresCodec(MultiresConfig().build(DataSpec(1, 1, RATE)), [level])
    plain = Plain(MultiresConfig().levels[level]).eval()  # type: ignore[arg-type]
    wave = 0.1 * torch.randn(round(length * RATE / 128) * 128)
    codes = codec.encode(wave, RATE)
    _, index = plain.quantize(plain.encoder(wave[None, None]))
    encode = {"ours": lambda: codec.encode(wave, RATE),
              "plain": lambda: plain.quantize(plain.encoder(wave[None, None]))}
    decode = {"ours": lambda: codec.decode(codes), "plain": lambda: plain.decoder(plain.codes[index].T[None])}
    return median(encode, repeats), median(decode, repeats)


def memory(level: int, which: str) -> str:
    """MB that a training step adds, in a process of its own."""
    command = [sys.executable, __file__, "--memory", f"{level}", which]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.memory:
        work = trainers(int(asked.memory[0]))[asked.memory[1]]
        before = peak_memory()
        work()
        print(f"{(peak_memory() - before) / 1e6:.0f}")
        return
    rows = []
    for level in asked.levels:
        encode, decode = coding(level, asked.seconds, asked.repeats)
        train = median(trainers(level), asked.repeats)
        for name, its in (("encode, × real time", encode), ("decode, × real time", decode)):
            ours, plain = asked.seconds / its["ours"], asked.seconds / its["plain"]
            rows.append((level, name, f"{ours:.1f}", f"{plain:.1f}", f"{ours / plain:.2f}"))
        rows.append((level, "training step, s", f"{train['ours']:.2f}", f"{train['plain']:.2f}",
                     f"{train['plain'] / train['ours']:.2f}"))
        held = {name: memory(level, name) for name in ("ours", "plain")}
        rows.append((level, "memory of a step, MB", held["ours"], held["plain"],
                     f"{float(held['plain']) / float(held['ours']):.2f}"))
    print(Table(("level", "what", "ours", "plain", "better by"), rows).text())


if __name__ == "__main__":
    main()
