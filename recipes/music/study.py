"""A level of codes of music beside the paper's at the same bit rate and minutes, and what the parts of one do.

    python recipes/music/study.py level-2 --data corpora/music
    python recipes/music/study.py parts --data corpora/music --minutes 20

A variant is a name and what it sets in levels.toml. Measured on the test part: the first 20 s of each of --limit
recordings. What is trained already is not trained again, so a study can be stopped and started. Runs and numbers
(study.json) lie in runs/study/NAME.
"""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiovae import metrics
from audiovae.checkpoint import load_model
from audiovae.data import AudioSource
from audiovae.evaluate import WHOLE, Clip, evaluate
from audiovae.level_codec import codec_of

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from studies import Numbers, Overrides, Study, main  # noqa: E402

SECONDS = 20  # of each recording


def heard(run: Path, source: AudioSource, limit: int) -> Numbers:
    """What a level keeps of music it was not trained on, how its codes are used, and its size."""
    model, corpus = load_model(run), source.corpus
    clips = (Clip(u.id, torch.from_numpy(corpus.audio(u)[..., :SECONDS * corpus.sample_rate]), corpus.sample_rate)
             for u in islice(corpus.utterances("test"), limit))
    found = evaluate(codec_of(model), clips)
    measures: dict[str, Any] = {name: value for name, value, _ in found.table().rows}
    steps = [row["step"] for row in map(json.loads, (run / "log.jsonl").read_text().splitlines())]
    return {"spectral convergence, dB": float(measures[WHOLE]),
            **{name: found.interval(name).mean for name in KEPT},  # type: ignore[union-attr]
            "used, %": 100 * float(np.mean([metrics.usage(count) for count in found.counts])),
            "perplexity": float(np.mean([metrics.perplexity(count) for count in found.counts])),
            "steps": max(steps, default=0), "million weights": sum(p.numel() for p in model.parameters()) / 1e6}


KEPT = ("multi-resolution STFT distance", "log-mel distance, dB", "SI-SDR, dB", "codes alone, kbit/s")
STRIDES = ((2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 2))
LEVEL = {"num_codes": 2048, "dim": 64}


def paper(level: int) -> Overrides:
    """The stacks of one of the paper's levels."""
    size = {"width": 64, "depth": 8} if level == 0 else {"width": 32, "depth": 4}
    return {"model.levels": [{"strides": STRIDES[level], **LEVEL, **size}]}


def spectral(hop: int, quantizers: int) -> Overrides:
    """As in medium.toml: frames of log-mel in, an inverse STFT out, and a residual quantizer of as many bits."""
    n_fft = max(1024, hop)
    return {"model": {"kind": "autoencoder",
                      "encoder": {"kind": "spectral", "n_fft": 2048, "mel_hop": hop // 2, "num_mels": 128,
                                  "frames": 2, "width": 256, "depth": 4},
                      "decoder": {"kind": "spectral", "hop": hop, "n_fft": n_fft, "frames": 2, "width": 320,
                                  "depth": 6},
                      "bottleneck": {"kind": "rvq", "num_quantizers": quantizers, "num_codes": 2048, "dim": 64,
                                     "standardize": True, "kmeans_after": 200, "dead_threshold": 0.03,
                                     "restart_count": 0.3}},
            "objective.criteria": [{"kind": "log_mel", "resolutions": [
                {"n_fft": 512, "hop": 128, "num_mels": 40}, {"n_fft": 1024, "hop": 256, "num_mels": 80},
                {"n_fft": 2048, "hop": 512, "num_mels": 128}]}],
            "objective.commitment": 0.25, "train.lr": 1.5e-3, "train.schedule": "cosine", "train.warmup": 0.01}


def without(*criteria: str) -> Overrides:
    return {"objective.criteria": [{"kind": kind} for kind in criteria]}


STUDIES = {
    **{f"level-{level}": Study(HERE / "levels.toml", {"as in the paper": paper(level), "spectral": spectral(*rate)},
                               heard) for level, rate in enumerate([(128, 16), (256, 8), (512, 4)])},
    "parts": Study(HERE / "levels.toml", {
        "as in the paper": {},
        "no restarts": {"model.levels": [{"strides": STRIDES[2], **LEVEL, "dead_threshold": 0.0}]},
        "L2 and L∞ alone": without("sample_l2", "top_squares"),
        "spectral alone": without("jukebox_spectral"),
        "L1 for L2": without("sample_l1", "top_squares", "jukebox_spectral"),
    }, heard),
}


if __name__ == "__main__":
    sys.exit(main(STUDIES, __doc__, sys.argv[1:]))
