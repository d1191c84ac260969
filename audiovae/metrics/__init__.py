"""Measures of reconstructions and codes: each a pure function, each number named with its unit."""

from audiovae.metrics.cost import Stopwatch, peak_memory
from audiovae.metrics.interval import Interval, mean_interval
from audiovae.metrics.perceptual import pesq_wb, stoi
from audiovae.metrics.usage import code_counts, perplexity, usage
from audiovae.metrics.waveform import log_mel_distance, si_sdr, spectral_convergence, stft_distance

__all__ = [
    "Interval",
    "Stopwatch",
    "code_counts",
    "log_mel_distance",
    "mean_interval",
    "peak_memory",
    "perplexity",
    "pesq_wb",
    "si_sdr",
    "spectral_convergence",
    "stft_distance",
    "stoi",
    "usage",
]
