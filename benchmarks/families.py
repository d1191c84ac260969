"""Three families on the same pictures in one run: a VAE, an autoregressive model and a flow.

    python benchmarks/families.py                                # scikit-learn's digits, a minute for each
    python benchmarks/families.py --minutes 5 --data cifar10.npz

The first table: equal processor minutes of training in the one loop (so many steps, by what forty cost), then
bits per dimension of the test part with the 95 % interval over its pictures. They are exact for the
autoregressive model and bounds for the other two: one draw of the latent or of the noise is the usual bound
(ELBO; uniform dequantization), a hundred the tighter importance-weighted one. The second table: processor
milliseconds for 64 new pictures by the number of pixels, with random weights, which cost what trained ones do;
the families take turns, least of the repeats. One thread.
"""

import argparse
import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from audiovae.bottlenecks import GaussianConfig
from audiovae.checkpoint import load_model
from audiovae.data import ArchiveData, DigitsData
from audiovae.decoders import StridedDecoderConfig
from audiovae.encoders import StridedEncoderConfig
from audiovae.image.source import ImageSource
from audiovae.likelihoods import CategoricalConfig
from audiovae.likelihoods.dequantized import Dequantized
from audiovae.metrics import mean_interval
from audiovae.metrics.bounds import log_likelihood
from audiovae.metrics.interval import Interval
from audiovae.models import Autoencoder, AutoencoderConfig, DensityConfig, DensityModel, Model, ModelConfig
from audiovae.models.density import FlowConfig, PixelCNNConfig
from audiovae.report.table import Table
from audiovae.shapes import DataSpec
from audiovae.train import Experiment, TrainConfig, train

COUNT, SIDES = 64, (8, 16, 32)
FAMILIES: dict[str, ModelConfig] = {
    "VAE": AutoencoderConfig(encoder=StridedEncoderConfig(strides=(2, 2), width=32, depth=1),
                             bottleneck=GaussianConfig(dim=4),
                             decoder=StridedDecoderConfig(strides=(2, 2), width=32, depth=1),
                             likelihood=CategoricalConfig()),
    "autoregressive": DensityConfig(estimator=PixelCNNConfig(width=32, depth=5)),
    "flow": DensityConfig(estimator=FlowConfig()),
}


def compare(data: DigitsData | ArchiveData, minutes: float, folder: Path) -> Table:
    """Train each family and measure it on the test part."""
    rows = []
    for name, model in FAMILIES.items():
        steps = round(60 * minutes / seconds_per_step(data, model, folder / f"{name} probe"))
        spend(data, model, steps, folder / name)
        trained = load_model(folder / name)
        source = data.build(seed=0)
        dims = source.part("test").x[0].numel()
        rows.append((name, _latent_dims(trained, dims), dims, sum(p.numel() for p in trained.parameters()) // 1000,
                     steps, bits(trained, source, draws=1), bits(trained, source, draws=100), _kind(trained)))
    return Table(("family", "latent dims", "data dims", "thousand weights", "steps", "bits/dim, 1 draw",
                  "100 draws", "which are"), rows)


def seconds_per_step(data: DigitsData | ArchiveData, model: ModelConfig, folder: Path) -> float:
    """Processor seconds, from a run of 50 steps less one of 10, after a first that pays for what is loaded late."""
    _, short, long = (spend(data, model, steps, folder / str(i)) for i, steps in enumerate((10, 10, 50)))
    return (long - short) / 40


def spend(data: DigitsData | ArchiveData, model: ModelConfig, steps: int, folder: Path) -> float:
    """Train, and give the processor seconds it took."""
    start = time.process_time()
    train(Experiment(data=data, model=model, train=TrainConfig(steps=steps, lr=2e-3, log_every=100)), folder)
    return time.process_time() - start


@torch.no_grad()
def bits(model: Model, source: ImageSource, draws: int) -> Interval:
    """Bits per dimension of the test part: their mean over pictures, and its interval."""
    torch.manual_seed(0)
    found: list[Tensor] = []
    for batch in source.batches("test"):
        if not isinstance(model, DensityModel):
            nats = log_likelihood(model, batch.x, samples=draws)
        else:
            if isinstance(model.likelihood, Dequantized):
                model.likelihood.samples = draws
            nats = model.log_prob(batch.x)
        found.append(-nats / batch.x[0].numel() / math.log(2))
    return mean_interval(torch.cat(found).tolist())


def _latent_dims(model: Model, data_dims: int) -> int | None:
    if isinstance(model, Autoencoder):
        return model.sample_prior(1).numel()
    return data_dims if isinstance(model.likelihood, Dequantized) else None  # a flow's noise is its latent


def _kind(model: Model) -> str:
    if isinstance(model, Autoencoder):
        return "bounds: ELBO, IWAE"
    return "exact" if model.likelihood.measure == "mass" else f"bounds: {model.likelihood.measure}"


def growth(repeats: int) -> Table:
    """Milliseconds for new pictures of growing size, one grey channel of 17 levels."""
    torch.manual_seed(0)
    models = {(name, side): config.build(DataSpec(channels=1, dims=2, size=(side, side), levels=17)).eval()
              for name, config in FAMILIES.items() for side in SIDES}
    least = dict.fromkeys(models, math.inf)
    for _ in range(repeats):
        for key, model in models.items():
            start = time.process_time()
            with torch.no_grad():
                model.sample(COUNT)
            least[key] = min(least[key], 1e3 * (time.process_time() - start))
    rows = [(name, "one after the other" if name == "autoregressive" else "all at once",
             *(least[name, side] for side in SIDES), least[name, SIDES[-1]] / least[name, SIDES[0]])
            for name in FAMILIES]
    factor = (SIDES[-1] // SIDES[0]) ** 2
    return Table(("family", "draws", *(f"ms, {side} x {side}" for side in SIDES), f"for {factor} x pixels"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz of pictures; the digits if not given")
    parser.add_argument("--minutes", type=float, default=1.0, help="processor minutes of training, each")
    parser.add_argument("--repeats", type=int, default=3, help="of each drawing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = DigitsData(batch_size=64) if args.data is None else ArchiveData(batch_size=64, path=args.data)
    with TemporaryDirectory() as folder:
        print(compare(data, args.minutes, Path(folder)).text(), "\n")
    print(growth(args.repeats).text())


if __name__ == "__main__":
    main()
