"""A level of codes of music beside the paper's at the same bit rate and minutes, and what the parts of one do.

    python recipes/music/study.py level-2 --data corpora/music
    python recipes/music/study.py parts --data corpora/music --minutes 20

A variant is a name and what it sets in levels.toml. Measured on the test part: the first 20 s of each of --limit
recordings. What is trained already is not trained again, so a study can be stopped and started. Runs and numbers
(study.json) lie in runs/study/NAME.
"""

import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from listening import heard  # noqa: E402
from studies import Overrides, Study, main  # noqa: E402

KEPT = ("multi-resolution STFT distance", "log-mel distance, dB", "SI-SDR, dB")
STRIDES = ((2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 2))
LEVEL = {"num_codes": 2048, "dim": 64}


def paper(level: int) -> Overrides:
    """The stacks of one of the paper's levels."""
    size = {"width": 64, "depth": 8} if level == 0 else {"width": 32, "depth": 4}
    return {"model.levels": [{"strides": STRIDES[level], **LEVEL, **size}]}


LOG_MEL = {"kind": "log_mel", "resolutions": [
    {"n_fft": 512, "hop": 128, "num_mels": 40}, {"n_fft": 1024, "hop": 256, "num_mels": 80},
    {"n_fft": 2048, "hop": 512, "num_mels": 128}]}


def spectral(hop: int, quantizers: int, *more: str) -> Overrides:
    """As in medium.toml: frames of log-mel in, an inverse STFT out, and a residual quantizer of as many bits.

    ``more`` are criteria beside log-mel, which hears all bands alike: others hear where the energy is.
    """
    n_fft = max(512, 2 * hop)
    return {"model": {"kind": "autoencoder",
                      "encoder": {"kind": "spectral", "n_fft": 2048, "mel_hop": hop // 2, "num_mels": 128,
                                  "frames": 2, "width": 256, "depth": 4},
                      "decoder": {"kind": "spectral", "hop": hop, "n_fft": n_fft, "frames": 2, "width": 320,
                                  "depth": 6},
                      "bottleneck": {"kind": "rvq", "num_quantizers": quantizers, "num_codes": 2048, "dim": 64,
                                     "standardize": True, "kmeans_after": 200, "dead_threshold": 0.03,
                                     "restart_count": 0.3}},
            **criteria(LOG_MEL, *more),
            "objective.commitment": 0.25, "train.lr": 1.5e-3, "train.schedule": "cosine", "train.warmup": 0.01}


def criteria(*chosen: str | Overrides) -> Overrides:
    """Criteria as they are, by their kinds, or as given."""
    return {"objective.criteria": [{"kind": one} if isinstance(one, str) else one for one in chosen]}


kept = partial(heard, judges=KEPT)
STUDIES = {
    **{f"level-{level}": Study(HERE / "levels.toml", {
        "as in the paper": paper(level), "spectral": spectral(*rate),
        "spectral, with the paper's loss too": spectral(*rate, "jukebox_spectral")}, kept)
       for level, rate in enumerate([(128, 16), (256, 8), (512, 4)])},
    "parts": Study(HERE / "levels.toml", {
        "as in the paper": {},
        "no restarts": {"model.levels": [{"strides": STRIDES[2], **LEVEL, "dead_threshold": 0.0}]},
        "L2 and L∞ alone": criteria("sample_l2", "top_squares"),
        "spectral alone": criteria("jukebox_spectral"),
        "L1 for L2": criteria("sample_l1", "top_squares", "jukebox_spectral"),
    }, kept),
}


if __name__ == "__main__":
    sys.exit(main(STUDIES, __doc__, sys.argv[1:]))
