"""Bottlenecks, front ends and an adversary beside each other, at the same bit rate and minutes, in one table each.

    python recipes/speech_codec/study.py bottlenecks --data corpora/speech16k --limit 100
    python recipes/speech_codec/study.py front-ends --data corpora/speech16k --limit 100 --minutes 30
    python recipes/speech_codec/study.py adversary --data corpora/speech16k --limit 100

A variant is a name and what it sets in mel.toml, 3 kbit/s all of them. Measured on the test part: the first 20 s of
each of --limit recordings. What is trained already is not trained again, so a study can be stopped and started. Runs
and numbers (study.json) lie in runs/study/NAME.
"""

import math
import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from listening import heard  # noqa: E402
from studies import Overrides, Study, main  # noqa: E402

JUDGES = ("PESQ-wb, MOS-LQO", "STOI", "log-mel distance, dB", "SI-SDR, dB")
BUDGET: Overrides = {"train.minutes": 10.0, "train.schedule": "cosine", "train.warmup": 0.01, "train.precision": "bf16"}
SOON: Overrides = {"model.bottleneck.kmeans_after": 200}  # in minutes the recipe's 2,000 steps are not reached
BOOK = {"kmeans_after": 200, "standardize": True, "dead_threshold": 0.03, "restart_count": 0.3}
NATS = 3000 * math.log(2)  # a second


def fast(bottleneck: Overrides) -> Overrides:
    """One code of 12 bits, 250 times a second, for quantizers that have but one."""
    return {"model.encoder": {"kind": "spectral", "mel_hop": 64, "frames": 1},
            "model.decoder": {"kind": "spectral", "hop": 64, "frames": 1, "n_fft": 640},
            "model.bottleneck": bottleneck}


def slow(bottleneck: Overrides) -> Overrides:
    """60 bits, 50 times a second."""
    return {"model.bottleneck": bottleneck}


def strided(*strides: int) -> Overrides:
    """As in waveform.toml."""
    shape = {"kind": "strided", "width": 64, "depth": 3}
    return {"model.encoder": {**shape, "strides": strides}, "model.decoder": {**shape, "strides": strides[::-1]},
            "train.lr": 5e-4}


VQ, RVQ = {"kind": "vq", "num_codes": 4096, "dim": 16, **BOOK}, {"kind": "rvq", "dim": 64, **BOOK}
VARIANTS: dict[str, dict[str, Overrides]] = {
    "bottlenecks": {
        "VQ of 4096, running means": fast(VQ),
        "VQ of 4096, by loss": fast({**VQ, "codebook": "loss"}),
        "FSQ, 8 x 8 x 8 x 8": fast({"kind": "fsq", "levels": (8, 8, 8, 8)}),
        "residual VQ, 6 of 1024": slow({**RVQ, "num_quantizers": 6, "num_codes": 1024}),
        "residual VQ, 12 of 32": slow({**RVQ, "num_quantizers": 12, "num_codes": 32}),
        "residual VQ, 6 of 1024, by loss": slow({**RVQ, "num_quantizers": 6, "num_codes": 1024, "codebook": "loss"}),
        "grouped VQ, 6 of 1024": slow({"kind": "grouped", "groups": 6,
                                       "each": {"kind": "vq", "num_codes": 1024, "dim": 10, **BOOK}}),
        "Gaussian, its rate held": slow({"kind": "gaussian", "dim": 64}) | {
            "objective.rate": {"kind": "constant_rate", "nats": NATS, "gamma": 10.0}},
    },
    "front-ends": {
        "log-mel, one frame a code": SOON,
        "log-mel, two frames a code": SOON | {"model.decoder.frames": 2},
        "samples": SOON | strided(4, 8, 10),
    },
    "adversary": {
        "without": SOON,
        "with, from step 500": SOON | {"adversary.kind": "multi_resolution_stft", "adversary.starts": 500},
    },
}
STUDIES = {name: Study(HERE / "mel.toml", {variant: BUDGET | overrides for variant, overrides in variants.items()},
                       partial(heard, judges=JUDGES)) for name, variants in VARIANTS.items()}


if __name__ == "__main__":
    sys.exit(main(STUDIES, __doc__, sys.argv[1:]))
