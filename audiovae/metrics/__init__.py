"""Measures of reconstructions and codes: each a pure function, each number named with its unit."""

from audiovae.metrics.cost import Stopwatch, peak_memory
from audiovae.metrics.disentanglement import (
    DCI,
    FactorAccuracy,
    MutualInformationGap,
    beta_vae_score,
    dci,
    factor_vae_score,
    mutual_information_gap,
)
from audiovae.metrics.generation import (
    GenerationScores,
    density_coverage,
    extrapolated_frechet_distance,
    frechet_distance,
    generation_scores,
    inception_score,
    kernel_distance,
    precision_recall,
)
from audiovae.metrics.interval import Interval, mean_interval
from audiovae.metrics.melody import (
    pitch_contour,
    pitch_correlation,
    pitch_difference,
    pitch_error,
    pitch_moved,
    pitch_statistics,
)
from audiovae.metrics.music import chroma, chroma_similarity, rhythm_similarity, self_similarity, timbre_distance
from audiovae.metrics.opinion import predicted_mos
from audiovae.metrics.perceptual import pesq_nb, pesq_wb, stoi
from audiovae.metrics.recognition import Recogniser, spoken_words, word_error_rate, word_errors
from audiovae.metrics.sequences import Copy, SequenceClassifier, longest_copy
from audiovae.metrics.usage import code_counts, perplexity, usage
from audiovae.metrics.verification import EqualError, Verifier, centroid, equal_error
from audiovae.metrics.waveform import (
    log_mel_distance,
    si_sdr,
    spectral_convergence,
    spectral_energies,
    stft_distance,
)

__all__ = [
    "DCI",
    "Copy",
    "EqualError",
    "FactorAccuracy",
    "GenerationScores",
    "Interval",
    "MutualInformationGap",
    "Recogniser",
    "SequenceClassifier",
    "Stopwatch",
    "Verifier",
    "beta_vae_score",
    "centroid",
    "chroma",
    "chroma_similarity",
    "code_counts",
    "dci",
    "density_coverage",
    "equal_error",
    "extrapolated_frechet_distance",
    "factor_vae_score",
    "frechet_distance",
    "generation_scores",
    "inception_score",
    "kernel_distance",
    "log_mel_distance",
    "longest_copy",
    "mean_interval",
    "mutual_information_gap",
    "peak_memory",
    "perplexity",
    "pesq_nb",
    "pesq_wb",
    "pitch_contour",
    "pitch_correlation",
    "pitch_difference",
    "pitch_error",
    "pitch_moved",
    "pitch_statistics",
    "precision_recall",
    "predicted_mos",
    "rhythm_similarity",
    "self_similarity",
    "si_sdr",
    "spectral_convergence",
    "spectral_energies",
    "spoken_words",
    "stft_distance",
    "stoi",
    "timbre_distance",
    "usage",
    "word_error_rate",
    "word_errors",
]
