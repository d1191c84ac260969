"""Variants of a recipe beside each other: each trained with several seeds, measured on held-out data, in one table.

    python recipes/image_vae/study.py collapse
    python recipes/image_vae/study.py beta --seeds 0 1 2
    python recipes/image_vae/study.py dequantization --data cifar10.npz
    python recipes/image_vae/study.py semi-supervised --data mnist.npz --seeds 0 1 2

A variant is a name and what it sets in the recipe's TOML file. What is trained already is not trained again, so a study
can be stopped and started. Runs and numbers (study.json) lie in runs/study/NAME. Without --data, a study that wants an
archive runs on scikit-learn's digits: it then shows that it works, and no more.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

from audiovae.checkpoint import load_model
from audiovae.image.shapes import combinations, draw
from audiovae.latents import locate
from audiovae.likelihoods import Dequantized, Likelihood, Logistic
from audiovae.metrics import beta_vae_score, dci, factor_vae_score, mutual_information_gap
from audiovae.metrics.bounds import evidence, evidence_of
from audiovae.metrics.latents import active_units
from audiovae.models import SemiSupervised

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from studies import Numbers, Overrides, Source, Study, held_out, main  # noqa: E402

SHAPES_JUDGED = 5000
FIRST = "M1"  # the variant whose latents another one is trained on


@torch.no_grad()
def used(run: Path, source: Source, limit: int) -> Numbers:
    """Whether the latent is used: rate, active units, and the bound, nats an example."""
    model, x = load_model(run), held_out(source, limit).x
    found = evidence(model, x, samples=4)
    return {"rate, nats": float(found.rate.mean()), "active units": float(active_units(locate(model, x)).sum()),
            "distortion, nats": float(found.distortion.mean()), "ELBO, nats": float(found.elbo.mean())}


@torch.no_grad()
def disentangled(run: Path, source: Source, limit: int) -> Numbers:
    """Reconstruction of new shapes, and how their factors lie in the latent's dimensions."""
    model, seen = load_model(run), sum(len(part) for part in source.parts.values())  # type: ignore[union-attr]
    factors = combinations(seen + SHAPES_JUDGED)[seen:]  # the first are those of the data
    x = draw(factors, source.spec.size[-1]).float()  # type: ignore[index]
    codes, known = locate(model, x).flatten(1).double().numpy(), factors.numpy()
    found, told = evidence(model, x[:limit]), dci(codes, known)
    return {"distortion, nats": float(found.distortion.mean()), "rate, nats": float(found.rate.mean()),
            "MIG": mutual_information_gap(codes, known).score,
            "β-VAE score": beta_vae_score(codes, known).score,
            "FactorVAE score": factor_vae_score(codes, known).score,
            "DCI disentanglement": told.disentanglement, "completeness": told.completeness,
            "informativeness": told.informativeness}


@torch.no_grad()
def bits(run: Path, source: Source, limit: int) -> Numbers:
    """Bits per dimension from the ELBO, with one draw of latent and noise for each picture.

    Beside them those of the density's exact mass: no noise can make its bound better than that.
    """
    model, found = load_model(run), []
    for x in held_out(source, limit).x.split(100):
        output = model(x)
        evidence = evidence_of(model.likelihood, output, x)
        found.append(torch.stack([evidence.elbo, mass(model.likelihood, output.params, x) - evidence.rate]))
    bound, exact = torch.cat(found, dim=1).mean(1) / (-x[0].numel() * math.log(2))
    return {"bits per dimension": float(bound), "of the exact mass": float(exact)}


def mass(likelihood: Likelihood, params: Tensor, x: Tensor) -> Tensor:
    """log of what a dequantized likelihood bounds, (B,) nats, where its density is of independent logistics."""
    assert isinstance(likelihood, Dequantized) and isinstance(likelihood.inner, Logistic)
    centre, scale = likelihood.inner.mean(params).double(), likelihood.inner.scale(params).double()
    low = ((x * (likelihood.levels - 1)).round() / likelihood.levels - centre) / scale
    high = low + 1 / (likelihood.levels * scale)
    above = low + high > 0  # of the two tails the one where floats are fine
    low, high = torch.where(above, -high, low), torch.where(above, -low, high)
    return (high.sigmoid() - low.sigmoid()).clamp(min=1e-300).log().flatten(1).sum(1)


@torch.no_grad()
def mistaken(run: Path, source: Source, limit: int) -> Numbers:
    """Share of held-out examples whose likeliest label is wrong.

    For a model that knows no labels a support vector machine tells them, from the posterior means of the labelled
    examples (M1, Kingma 2014).
    """
    from sklearn.svm import SVC

    model, test = load_model(run), held_out(source, limit)
    label = test.condition.label
    assert label is not None
    if isinstance(model, SemiSupervised):
        guess = torch.cat([model.classify(x).argmax(1) for x in test.x.split(1000)])
    else:
        training = source.part("train")
        assert training.condition.label is not None
        known = training.condition.label >= 0
        machine = SVC(C=10).fit(locate(model, training.x[known]).flatten(1), training.condition.label[known])
        guess = torch.from_numpy(machine.predict(locate(model, test.x).flatten(1)))
    return {"error, %": 100 * float((guess != label).float().mean())}


def rate(kind: str, **more: float) -> Overrides:
    return {"objective.rate.kind": kind} | {f"objective.rate.{key}": value for key, value in more.items()}


DECODER, NOISE = "model.decoder.", "model.likelihood.noise."
GATED = {"kind": "mlp", "widths": (300, 300), "activation": "glu"}
STUDIES = {
    "collapse": Study(HERE / "collapse.toml", {
        "plain VAE": {},
        "plain VAE, its encoder slower": {"train.encoder_lr": 3e-4},
        "linear annealing of β": rate("linear", until=0.5),
        "cyclical annealing of β": rate("cyclical", cycles=4),
        "free bits": rate("free_bits", nats=0.5),
        "capacity": rate("capacity", nats=4.0, gamma=10.0),
        "constant rate": rate("constant_rate", nats=4.0, gamma=1.0),
        "committed rate (δ-VAE)": {"model.bottleneck.committed": 0.5},
        "lagging inference": {"train.encoder_steps": 2, "train.steps": 3000},
        "GECO": rate("geco", target=0.31, speed=0.1),
        "decoder of short reach": {DECODER + "depth": 1, DECODER + "kernel": 3},
        "decoder that drops pixels": {DECODER + "pixel_dropout": 0.5},
    }, used),
    "beta": Study(HERE / "beta.toml", {
        "β = 1": rate("constant", beta=1.0),
        "β = 4": rate("constant", beta=4.0),
        "β-TCVAE, β = 6": rate("total_correlation", beta=6.0),
        "capacity to 18 nats": rate("capacity", nats=18.0, gamma=30.0, until=0.8),
    }, disentangled),
    "dequantization": Study(HERE / "dequantization.toml", {
        "uniform noise": {NOISE + "kind": "uniform"},
        "learned noise, flow": {NOISE + "kind": "flow", NOISE + "width": 16, NOISE + "depth": 1, NOISE + "layers": 2},
        "learned noise, logit-normal": {NOISE + "kind": "logit_normal", NOISE + "width": 16, NOISE + "depth": 1},
    }, bits),
    "semi-supervised": Study(HERE / "m2.toml", {
        "classifier alone": {"data.labelled_share": 1.0, "objective.distortion_weight": 0.0,
                             "objective.rate.kind": "constant", "objective.rate.beta": 0.0},
        "M2": {},
        FIRST: {"data.labelled_share": 0.01, "objective.rate.kind": "linear", "objective.rate.until": 0.3,
                "train.steps": 10_000, "train.ema": 0.999, "model.kind": "autoencoder",
                "model.encoder": GATED, "model.decoder": GATED,
                "model.bottleneck.kind": "gaussian", "model.bottleneck.dim": 50,
                "model.likelihood.kind": "bernoulli"},
        "M1 + M2": {"data.kind": "latents", "data.temperature": 0.1, "objective.classification": 0.2,
                    "train.steps": 40_000, "train.lr": 2e-3, "train.ema": 0.999,
                    "model.classifier": {"kind": "mlp", "widths": (300, 300)}, "model.corruption.share": 0.2,
                    "model.autoencoder.encoder.widths": (200, 200), "model.autoencoder.decoder.widths": (200, 200),
                    "model.autoencoder.bottleneck.dim": 10,
                    "model.autoencoder.likelihood.kind": "gaussian",
                    "model.autoencoder.likelihood.scale": "global"},
    }, mistaken, first=FIRST),
}


if __name__ == "__main__":
    sys.exit(main(STUDIES, __doc__, sys.argv[1:]))
