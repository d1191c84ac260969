"""What deep hierarchies cost: a training step beside its bare network, memory, growth, and drawing beside a PixelCNN.

    python benchmarks/hierarchies.py                         # all four, about ten minutes of a core
    python benchmarks/hierarchies.py --parts growth memory

*step*: audiovae.train.train, as the difference of a long and a short run, beside forward, bound and backward of the
same network in a loop that does nothing else. *memory*: the most a process holds while it trains three steps, above
what it held after a step of two pictures; cells computed again in the backward pass, or kept. *growth*: processor time
and that memory, as the groups of a ladder and the side of the pictures grow. *drawing*: new CIFAR-10-sized pictures
from the recipes' ladder, from VQ-VAE-2 by priors over its codes, and from a PixelCNN of pixels. Weights and pictures
are random. Each measure has a process of its own, with one thread; times are of the processor.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from audiovae.config import read
from audiovae.metrics import peak_memory
from audiovae.metrics.bounds import evidence_of
from audiovae.models import Model
from audiovae.report import Table
from audiovae.seeds import generator
from audiovae.shapes import CodeSpec, Condition, DataSpec
from audiovae.train import Experiment, train

RECIPES = Path(__file__).parents[1] / "recipes/image_hierarchies"
SHORT, LONG = 4, 44  # steps of the two runs whose difference is timed
REPEATS = 5
MIB = 2**20


def built(recipe: str, data: DataSpec, **settings: object) -> Model:
    torch.manual_seed(0)
    return read(Experiment, RECIPES / recipe, settings).model.build(data)


def network_step(model: Model, x: torch.Tensor) -> None:
    """Forward, the bound, backward."""
    model.zero_grad(set_to_none=True)
    (-evidence_of(model.likelihood, model(x), x).elbo.mean()).backward()


def processor_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


def step(recipe: str, side: int, channels: int, batch: int) -> tuple[float, float]:
    """Seconds of a step of the whole loop, and of its bare network."""
    torch.set_num_threads(1)
    dice = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npz"
        shape = (side, side, channels) if channels > 1 else (side, side)
        pictures = {f"x_{part}": dice.integers(0, 256, (64, *shape), np.uint8) for part in ("train", "test")}
        np.savez(path, **pictures)  # type: ignore[arg-type]
        told = {"data.kind": "npz", "data.path": str(path), "data.batch_size": batch, "data.validation_batches": 1}
        experiment = read(Experiment, RECIPES / recipe, told)

        def run(steps: int) -> float:
            loop = replace(experiment.train, steps=steps, minutes=None, validate_minutes=1e6, checkpoint_minutes=1e6)
            start = time.process_time()
            train(replace(experiment, train=loop), Path(folder) / f"run-{steps}")
            return time.process_time() - start

        whole = (run(LONG) - run(SHORT)) / (LONG - SHORT)
        source = experiment.data.build(0)
        model, x = experiment.model.build(source.spec), source.batch(0).x
        return whole, processor_seconds(lambda: network_step(model, x), repeats=10)


def memory(recipe: str, data: DataSpec, batch: int, settings: dict[str, object]) -> tuple[float, float]:
    """Seconds of a network's step, and the bytes it needs at most above the model."""
    torch.set_num_threads(1)
    model, x = built(recipe, data, **settings), torch.rand(batch, data.channels, *(data.size or ())).round()
    network_step(model, x[:2])  # what is loaded at the first step is no step's memory
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak
    before = peak_memory()
    seconds = processor_seconds(lambda: network_step(model, x), repeats=2)
    return seconds, peak_memory() - before


def drawing(recipe: str, data: DataSpec, count: int) -> tuple[float]:
    """Seconds for so many new pictures."""
    torch.set_num_threads(1)
    model = built(recipe, data).eval()
    start = time.process_time()
    model.sample(count, size=data.size)  # type: ignore[operator]
    return (time.process_time() - start,)


def coded_drawing(count: int) -> tuple[float]:
    """Seconds for so many new pictures from VQ-VAE-2: priors of both levels, then its decoder."""
    torch.set_num_threads(1)
    model = built("vqvae2_cifar10.toml", COLOUR).eval()
    (below, size_below), (top, size_top) = ((level, (32 // level.hop,) * 2) for level in model.code_levels)
    specs = {"prior_top_digits.toml": (size_top, CodeSpec(top.num_codes, level=1, hop=top.hop)),
             "prior_bottom_digits.toml": (size_below, CodeSpec(below.num_codes, hop=below.hop, upper=top.num_codes,
                                                               ratio=top.hop // below.hop))}
    priors = [built(recipe, DataSpec(1, 2, size=size, codes=codes)) for recipe, (size, codes) in specs.items()]
    dice = [generator(0, n) for n in range(count)]
    start = time.process_time()
    above = priors[0].draw(dice, size_top)  # type: ignore[operator]
    codes = priors[1].draw(dice, size_below, Condition(upper=above))  # type: ignore[operator]
    model.decode_levels([codes, above])  # type: ignore[operator]
    return (time.process_time() - start,)


def apart(work: Callable[..., tuple[float, ...]], *arguments: object) -> tuple[float, ...]:
    """``work`` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def scales(groups: int) -> list[dict[str, int]]:
    """Two rows of ladder_mnist.toml's widths with so many groups each, on 1/2 and 1/4 of the side."""
    return [{"stride": 2, "width": 32, "groups": groups, "latent_dim": 4},
            {"stride": 2, "width": 64, "groups": groups, "latent_dim": 4}]


BINARY, COLOUR = (lambda side: DataSpec(1, 2, size=(side, side), levels=2)), DataSpec(3, 2, size=(32, 32), levels=256)


def steps() -> Table:
    rows = []
    for recipe, side, channels, batch in (("nvae_digits.toml", 8, 1, 128), ("ladder_mnist.toml", 28, 1, 64),
                                          ("nvae_mnist.toml", 28, 1, 64), ("ladder_cifar10.toml", 32, 3, 32)):
        whole, network = apart(step, recipe, side, channels, batch)
        rows.append((recipe, batch, f"{1e3 * whole:.0f}", f"{1e3 * network:.0f}", f"{whole / network:.2f}"))
    return Table(("recipe", "pictures", "step, ms", "bare network, ms", "ratio"), rows)


def memories() -> Table:
    rows = []
    for recipe, batch in (("ladder_mnist.toml", 256), ("nvae_mnist.toml", 256)):
        for again in (False, True):
            seconds, peak = apart(memory, recipe, BINARY(28), batch, {"model.checkpoint": again})
            rows.append((recipe, batch, "again" if again else "kept", f"{peak / MIB:.0f}", f"{1e3 * seconds:.0f}"))
    return Table(("recipe", "pictures", "cells in the backward pass", "MiB", "ms"), rows)


def growth() -> Table:
    rows = []
    for groups, side in ((1, 32), (2, 32), (4, 32), (8, 32), (2, 16), (2, 64)):
        settings = {"model.scales": scales(groups), "model.start": "channel"}
        seconds, peak = apart(memory, "ladder_mnist.toml", BINARY(side), 16, settings)
        rows.append((2 * groups, side, f"{1e3 * seconds:.0f}", f"{peak / MIB:.0f}"))
    return Table(("groups", "side", "ms for 16 pictures", "MiB"), rows)


def drawings(count: int) -> Table:
    ladder, = apart(drawing, "ladder_cifar10.toml", COLOUR, count)
    coded, = apart(coded_drawing, count)
    pixels, = apart(drawing, "pixelcnn_cifar10.toml", COLOUR, count)
    times = {"ladder_cifar10.toml": ladder, "vqvae2_cifar10.toml and priors": coded, "pixelcnn_cifar10.toml": pixels}
    return Table((f"{count} pictures, 32 x 32 in colour", "s", "share of the PixelCNN's"), [
        (name, f"{seconds:.2f}", f"1 / {pixels / seconds:.0f}") for name, seconds in times.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("step", "memory", "growth", "drawing")
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts)
    parser.add_argument("--count", type=int, default=16, help="pictures drawn")
    arguments = parser.parse_args()
    tables = {"step": steps, "memory": memories, "growth": growth, "drawing": lambda: drawings(arguments.count)}
    for part in arguments.parts:
        print(f"\n{part}\n{tables[part]().text()}", flush=True)


if __name__ == "__main__":
    main()
