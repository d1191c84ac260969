"""What the parts of a hierarchy do: each left out in turn, or one level in place of two at the same bits.

    python recipes/image_hierarchies/study.py ladder --seeds 0 1 2
    python recipes/image_hierarchies/study.py codes --data cifar10.npz
    python recipes/image_hierarchies/study.py spectrogram-codes --data corpora/music

A variant is a name and what it sets in the recipe's TOML file. What is trained already is not trained again, so a study
can be stopped and started. Runs and numbers (study.json) lie in runs/study/NAME. Without --data, `codes` runs on
scikit-learn's digits: it then shows that it works, and no more.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from audiovae import metrics
from audiovae.checkpoint import load_model
from audiovae.files import json_lines
from audiovae.image.features import classifier_of
from audiovae.metrics.bounds import evidence, log_likelihood
from audiovae.metrics.generation import frechet_distance
from audiovae.metrics.groups import GroupUse, silent
from audiovae.models import Model
from audiovae.report import compression

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from studies import Numbers, Source, Study, held_out, main  # noqa: E402

SAMPLES = 100  # of the importance-weighted likelihood
SIZE = 200  # examples at once


@torch.no_grad()
def likely(run: Path, source: Source, limit: int) -> Numbers:
    """Bound and likelihood in nats, groups in use, and how training went: steps left out, and gradients."""
    model, x = load_model(run), held_out(source, limit).x
    elbo, nll, uses = [], [], [GroupUse() for _ in range(model.group_count)]  # type: ignore[arg-type]
    for part in x.split(SIZE):
        elbo.append(evidence(model, part).elbo)
        nll.append(-log_likelihood(model, part, SAMPLES))
        for use, latent in zip(uses, model(part).latents, strict=True):
            use.add(latent)
    rows = [row for row in json_lines(run / "log.jsonl") if row["split"] == "train"]
    norms = [row["grad_norm"] for row in rows] or [0.0]  # none is logged by a run of a few steps
    return {"ELBO, nats": float(torch.cat(elbo).mean()), f"NLL, IWAE-{SAMPLES}, nats": float(torch.cat(nll).mean()),
            "groups in use": len(uses) - len(silent(uses)), "steps left out": rows[-1]["skipped"] if rows else 0,
            "gradient norm, mean": float(np.mean(norms)), "largest logged": max(norms)}


@torch.no_grad()
def coded(run: Path, source: Source, limit: int) -> Numbers:
    """Error of the reconstructions, how the codes are used, and how far reconstructions lie from the data as a set.

    The distance is in the features of a classifier trained on the spot: alike for all variants, unlike any FID.
    """
    model, x = load_model(run), held_out(source, limit).x
    restored = torch.cat([model.reconstruct(part) for part in x.split(SIZE)]).clamp(0, 1)  # type: ignore[operator]
    codes = [model.encode_levels(part) for part in x.split(SIZE)]  # type: ignore[operator]
    error = (restored - x).square().flatten(1).mean(1)
    with torch.enable_grad():
        network = classifier_of(source)
    apart = frechet_distance(network.extract(x).vectors, network.extract(restored).vectors)
    return {"bits": compression(model, x.shape[2:]).rows[-1][4], "squared error": float(error.mean()),
            "PSNR, dB": float((-10 * error.log10()).mean()), f"Fréchet distance ({network.title})": apart,
            **used(model, codes), "million weights": sum(p.numel() for p in model.parameters()) / 1e6}


def used(model: Model, codes: list[tuple[torch.Tensor, ...]]) -> Numbers:
    """Share of each level's codes that were used, and their perplexity."""
    found = {}
    for level, its in enumerate(model.code_levels):
        every = torch.cat([batch[level] for batch in codes]).transpose(0, 1).flatten(1).numpy()
        counts = metrics.code_counts(every, its.num_codes)
        found |= {f"level {level}: used, %": 100 * float(np.mean([metrics.usage(count) for count in counts])),
                  f"level {level}: perplexity": float(np.mean([metrics.perplexity(count) for count in counts]))}
    return found


CELLS = "model.cells."
STUDIES = {
    "ladder": Study(HERE / "nvae_digits.toml", {
        "as in the paper": {},
        "no spectral regularisation": {"objective.spectral": 0.0},
        "posterior not told its prior": {"model.residual": False},
        "no batch normalisation": {CELLS + "norm": "none"},
        "no balance in warm-up": {"objective.rate.kind": "linear"},
    }, likely),
    # 16 x 16 and 8 x 8 codes of 9 bits are 2,880 bits, as are 16 x 16 codes of log2 2435 = 11.25; equal weights too
    "codes": Study(HERE / "vqvae2_cifar10.toml", {
        "two levels": {},
        "one level": {"model.levels": [{"strides": [2], "num_codes": 2435, "dim": 64, "width": 120, "hidden": 60,
                                        "depth": 2, "growth": 1, "standardize": True}]},
    }, coded),
    # 16 x 16 codes of 5 bits and 8 x 8 of 9 are 1,856 bits, as are 16 x 16 codes of log2 152 = 7.25
    "spectrogram-codes": Study(HERE.parent / "spectrogram_hierarchies/vqvae2.toml", {
        "two levels": {},
        "one level": {"model.levels": [{"strides": [2, 2], "num_codes": 152, "dim": 32, "width": 66, "hidden": 33,
                                        "depth": 2, "growth": 1, "standardize": True}]},
    }, coded),
}


if __name__ == "__main__":
    sys.exit(main(STUDIES, __doc__, sys.argv[1:]))
