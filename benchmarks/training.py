"""Time of a training step, in one run: audiovae, the same arithmetic in a bare torch loop, and pythae.

    python benchmarks/training.py                          # one and two threads
    python benchmarks/training.py --cases VAE --threads 1 --steps 500 --turns 3

*VAE* is recipes/image_vae/mnist.toml with plain perceptrons, 784-500-500-50 and back: Bernoulli, 128 pictures a step,
drawn by lot and binarised anew. A *VQ-VAE* has 512 codes of width 64, which follow a running mean: *small* on our
strided convolutions (width 32, one residual block a stride, 7 x 7 codes), *large* on pythae's own residual networks
for MNIST (width 128, 4 x 4 codes). All contenders of a case train the very same modules, or, of the VAE, the same
layers, so that their weights are equal in number; but of *small* pythae has torch's own transposed convolutions, which
ours computes in another way. Pictures are random, of MNIST's size.

*ours* is audiovae.train.train itself: the difference of a run of 20 steps and one of so many more, so that its start,
its validation and its checkpoint, which both have, drop out. *ours, last* is the same with ``train.channels_last``,
*ours, bf16* with ``train.precision = "bf16"`` as well, which pays where the processor multiplies in it.
*bare* is its arithmetic without any of its classes: the same batches, losses, clipping, fused AdamW, averaged weights,
and numbers taken every ten steps; it prepares a batch when it wants it. It uses torch's own functions, ``bernoulli``,
indexing and ``clip_grad_norm_``, where ours has found cheaper ways to the same. *pythae* is its trainer's ``train``
with its defaults, its start left out; *pythae, fused* is told to take the fused AdamW too. Its pictures are grey, not
drawn anew, and it neither clips nor averages.

They take turns, each in a process of its own, so that a busy machine slows all alike and what one asks of the C
library's allocator no other gets; the tables give medians over turns of milliseconds a step, and
the median of the ratios within a turn. With one thread all is held on one core, or ours would prepare the next batch
on another.
"""

import argparse
import logging
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VQVAE, VAEConfig, VQVAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_VQVAE_MNIST, Encoder_ResNet_VQVAE_MNIST
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from audiovae.bottlenecks import VQConfig
from audiovae.config import Config, read
from audiovae.data import ArchiveData
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.likelihoods import GaussianConfig
from audiovae.models import Autoencoder, AutoencoderConfig
from audiovae.nn.mlp import perceptron
from audiovae.report.table import Table
from audiovae.shapes import DataSpec
from audiovae.train import Experiment, TrainConfig, train

MNIST = Path(__file__).parents[1] / "recipes/image_vae/mnist.toml"
PICTURES, BATCH, SIDE = 12_800, 128, 28  # 100 steps to pythae's epoch, or all that --steps asks for
WIDTHS, LATENT = (500, 500), 50
CODES, CODE_DIM = 512, 64
EVERY = 10  # steps between two reports
SHORT = 20  # steps of the run that tells what a start costs; the quantizers' k-means is over by then
NAMES = ("ours", "ours, last", "ours, bf16", "bare", "pythae", "pythae, fused")
PAIRS = (("ours", "bare"), ("pythae", "ours"), ("pythae, fused", "ours"), ("pythae", "ours, last"),
         ("pythae", "ours, bf16"))
Clock = Literal["wall", "processor"]


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a step, by the clock on the wall and of the processor; and how many weights learnt."""

    wall: float
    processor: float
    weights: int


Contender = Callable[[int, Path], Cost]


def apart(work: Callable[[], Cost]) -> Cost:
    """What ``work`` returns in a process of its own, forked from this one, which itself computes nothing."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(work()))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def timed(steps: int, weights: int, work: Callable[[], object]) -> Cost:
    """What ``work``, which takes so many steps, costs a step."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Cost(1e3 * (time.perf_counter() - wall) / steps, 1e3 * (time.process_time() - processor) / steps, weights)


def ours(experiment: Experiment, **changed: Any) -> Contender:
    """``train`` itself, less a run of a few steps: its start, its validation and its checkpoint are no step's cost."""
    def whole(steps: int, folder: Path) -> Cost:
        config = replace(experiment.train, steps=steps, log_every=EVERY, validate_minutes=1e6, checkpoint_minutes=1e6,
                         **changed)
        return timed(1, 0, lambda: train(replace(experiment, train=config), folder))

    def run(steps: int, folder: Path) -> Cost:
        whole(1, folder / "first")  # what is imported late is then there for both
        short, long = whole(SHORT, folder / "short"), whole(SHORT + steps, folder / "long")
        return Cost((long.wall - short.wall) / steps, (long.processor - short.processor) / steps,
                    _count(experiment.model.build(SPEC)))
    return run


class BareVAE(nn.Module):
    """The VAE's arithmetic: encode, draw, decode, and what is minimised, per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(SIDE * SIDE, 2 * LATENT, WIDTHS)
        self.decoder = perceptron(LATENT, SIDE * SIDE, WIDTHS[::-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = torch.addcmul(mean, (0.5 * log_variance).exp(), torch.randn_like(mean))
        logits = self.decoder(z)
        distortion = (F.softplus(logits) - x * logits).sum(1).mean()
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return (distortion + rate) / x.shape[1], distortion, rate


def bare(pixels: Tensor, config: TrainConfig) -> Contender:
    """The loop anybody would write: all that ``train`` does for the VAE, none of its checks, records and classes."""
    def run(steps: int, folder: Path) -> Cost:
        torch.manual_seed(0)
        model = BareVAE()
        parameters = list(model.parameters())
        averages = [p.detach().clone() for p in parameters]
        optimizer = torch.optim.AdamW(parameters, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)
        reports = []

        def loop() -> None:
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
                x = torch.bernoulli(pixels[torch.randint(len(pixels), (BATCH,))].float().div(255)).flatten(1)
                total, *parts = model(x)
                total.backward()
                norm = nn.utils.clip_grad_norm_(parameters, config.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - config.ema)
                if (step + 1) % EVERY == 0:
                    reports.append([value.item() for value in (total, *parts, norm)])

        return timed(steps, _count(model), loop)
    return run


class PeerEncoder(BaseEncoder):
    """A network of ours for pythae's encoder; of a VAE, half its channels are means and half log-variances."""

    def __init__(self, network: nn.Module, gaussian: bool):
        super().__init__()
        self.network, self.gaussian = network, gaussian

    def forward(self, x: Tensor) -> ModelOutput:
        if not self.gaussian:
            return ModelOutput(embedding=self.network(x))
        mean, log_variance = self.network(x.flatten(1)).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class PeerDecoder(BaseDecoder):
    """A network of ours for pythae's decoder; of a VAE it wants chances, not logits."""

    def __init__(self, network: nn.Module, gaussian: bool):
        super().__init__()
        self.network, self.gaussian = network, gaussian

    def forward(self, z: Tensor) -> ModelOutput:
        x = self.network(z)
        return ModelOutput(reconstruction=x.sigmoid().view(-1, 1, SIDE, SIDE) if self.gaussian else x)


def peer_vae() -> VAE:
    network = BareVAE()
    config = VAEConfig(input_dim=(1, SIDE, SIDE), latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, PeerEncoder(network.encoder, gaussian=True), PeerDecoder(network.decoder, gaussian=True))


def peer_vqvae(large: bool) -> VQVAE:
    config = VQVAEConfig(input_dim=(1, SIDE, SIDE), latent_dim=CODE_DIM, num_embeddings=CODES, use_ema=True)
    if large:
        return VQVAE(config, Encoder_ResNet_VQVAE_MNIST(config), Decoder_ResNet_VQVAE_MNIST(config))
    network = SMALL.build(SPEC)
    network.decoder.ups = nn.ModuleList(up.conv for up in network.decoder.ups)  # type: ignore[union-attr]
    return VQVAE(config, PeerEncoder(network.encoder, gaussian=False), PeerDecoder(network.decoder, gaussian=False))


def pythae(build: Callable[[], VAE | VQVAE], pixels: Tensor, config: TrainConfig, fused: bool) -> Contender:
    """Its trainer, at work: epochs of all pictures, the best model of them kept and in the end saved."""
    def run(steps: int, folder: Path) -> Cost:
        batches = min(len(pixels) // BATCH, steps)
        if steps % batches:
            raise SystemExit(f"training.py: --steps wants a multiple of {batches}, pythae's epoch, or less; got "
                             f"{steps}.")
        some = pixels[:batches * BATCH].float().div(255)
        data = BaseDataset(some, torch.zeros(len(some)))
        chosen = {"optimizer_cls": "AdamW", "optimizer_params": {"fused": True}} if fused else {}
        settings = BaseTrainerConfig(output_dir=str(folder), per_device_train_batch_size=BATCH, no_cuda=True,
                                     num_epochs=steps // batches, learning_rate=config.lr, **chosen)
        model = build()
        trainer = BaseTrainer(model, data, training_config=settings)
        return timed(steps, _count(model), lambda: trainer.train())
    return run


class PeerNetwork(nn.Module):
    """One of pythae's networks as an encoder or decoder of ours."""

    hop = 7  # 28 pixels to 4 codes
    autoregressive = False

    def __init__(self, network: nn.Module, key: str):
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        return self.network(x)[self.key]


@dataclass(frozen=True)
class LargeConfig(Config):
    """Our model around pythae's networks."""

    kind: Literal["autoencoder"] = "autoencoder"
    bottleneck: VQConfig = VQConfig(num_codes=CODES, dim=CODE_DIM)

    def build(self, data: DataSpec) -> Autoencoder:
        peer = VQVAEConfig(input_dim=(1, SIDE, SIDE), latent_dim=CODE_DIM)
        encoder = PeerNetwork(Encoder_ResNet_VQVAE_MNIST(peer), "embedding")
        decoder = PeerNetwork(Decoder_ResNet_VQVAE_MNIST(peer), "reconstruction")
        return Autoencoder(encoder, self.bottleneck.build(dims=2), decoder, GaussianConfig().build(data),  # type: ignore
                           data)


@dataclass(frozen=True)
class LargeExperiment(Experiment):
    model: LargeConfig = LargeConfig()  # type: ignore[assignment]


SPEC = DataSpec(channels=1, dims=2, size=(SIDE, SIDE), levels=256)
SMALL = AutoencoderConfig(encoder=StridedEncoderConfig(strides=(2, 2), width=32, depth=1),
                          bottleneck=VQConfig(num_codes=CODES, dim=CODE_DIM),
                          decoder=StridedDecoderConfig(strides=(2, 2), width=32, depth=1), likelihood=GaussianConfig())


def contenders(case: str, path: Path, pixels: Tensor) -> dict[str, Contender]:
    """By name, ours first."""
    if case == "VAE":
        plain = {f"model.{part}": {"kind": "mlp", "widths": list(WIDTHS)} for part in ("encoder", "decoder")}
        experiment = read(Experiment, MNIST, {"data.path": str(path), "data.validation_batches": 1, **plain})
        build, found = peer_vae, {"ours": ours(experiment), "bare": bare(pixels, experiment.train)}
    else:
        data = ArchiveData(batch_size=BATCH, validation_batches=1, path=str(path))
        large = case == "large VQ-VAE"
        experiment = LargeExperiment(data=data) if large else Experiment(data=data, model=SMALL)
        build, found = (lambda: peer_vqvae(large)), {
            "ours": ours(experiment), "ours, last": ours(experiment, channels_last=True),
            "ours, bf16": ours(experiment, channels_last=True, precision="bf16")}
    return found | {"pythae": pythae(build, pixels, experiment.train, fused=False),
                    "pythae, fused": pythae(build, pixels, experiment.train, fused=True)}


def race(case: str, path: Path, pixels: Tensor, steps: int, turns: int, without: list[str]) -> dict[str, list[Cost]]:
    """What each contender's turns cost."""
    found = {name: one for name, one in contenders(case, path, pixels).items() if name not in without}
    costs: dict[str, list[Cost]] = {name: [] for name in found}
    for turn in range(turns):
        for name, contender in found.items():
            with TemporaryDirectory() as folder, redirect_stderr(StringIO()):
                costs[name].append(apart(partial(contender, steps, Path(folder) / "run")))
            print(f"{case}, turn {turn}, {name}: {costs[name][-1]}", flush=True)
    return costs


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _row(costs: dict[str, list[Cost]], clock: Clock) -> list[float | None]:
    """Medians of each, then of the ratios in :data:`PAIRS`."""
    times = {name: [getattr(cost, clock) for cost in found] for name, found in costs.items()}
    medians = [statistics.median(times[name]) if name in times else None for name in NAMES]
    return medians + [statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
                      if over in times and under in times else None for over, under in PAIRS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = ["VAE", "small VQ-VAE", "large VQ-VAE"]
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--without", nargs="+", default=[], choices=NAMES, help="contenders to leave out")
    args = parser.parse_args()
    logging.disable(logging.INFO)  # pythae tells of every epoch
    cores = os.sched_getaffinity(0)
    dice = np.random.default_rng(0)
    pictures = {f"x_{part}": dice.integers(0, 256, (count, SIDE, SIDE), np.uint8)
                for part, count in (("train", PICTURES), ("valid", 256), ("test", 256))}
    pixels = torch.from_numpy(pictures["x_train"]).unsqueeze(1)
    rows: dict[Clock, list[list]] = {"processor": [], "wall": []}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npz"
        np.savez(path, **pictures)  # type: ignore[arg-type]
        for case in args.cases:
            for threads in args.threads:
                torch.set_num_threads(threads)
                os.sched_setaffinity(0, {min(cores)} if threads == 1 else cores)
                costs = race(case, path, pixels, args.steps, args.turns, args.without)
                weights = {cost.weights for found in costs.values() for cost in found}
                for clock in rows:
                    rows[clock].append([case, threads, "/".join(map(str, weights)), *_row(costs, clock)])
    for clock, found in rows.items():
        print(f"\n{clock} time")
        print(Table(("", "threads", "weights", *(f"{name} ms" for name in NAMES),
                     *(f"{over} / {under}" for over, under in PAIRS)), found).text())


if __name__ == "__main__":
    main()
