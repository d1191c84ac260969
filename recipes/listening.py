"""What a trained model of sound keeps of recordings it was not trained on: the measure of the recipes' studies."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from studies import Numbers

from audiovae import metrics
from audiovae.checkpoint import load_model
from audiovae.data import AudioSource
from audiovae.evaluate import WHOLE, Clip, evaluate, judged, measures
from audiovae.evaluate_priors import evenly
from audiovae.files import json_lines
from audiovae.level_codec import codec_of
from audiovae.models import Autoencoder, Model

SECONDS = 20  # of each recording, its first


def heard(run: Path, source: AudioSource, limit: int, judges: tuple[str, ...]) -> Numbers:
    """Means of ``judges``, named as in :func:`audiovae.evaluate.measures`, bit rate, use of the codes, and sizes.

    A judge that could judge no recording is left out.
    """
    model, recordings = load_model(run), clips(source, limit)
    if isinstance(model, Autoencoder) and not model.bottleneck.is_discrete:
        numbers = drawn(model, recordings, judges)
    else:
        numbers = coded(model, recordings, judges)
    steps = [row["step"] for row in json_lines(run / "log.jsonl")]
    return {**numbers, "steps": max(steps, default=0),
            "million weights": sum(weights.numel() for weights in model.parameters()) / 1e6}


def clips(source: AudioSource, limit: int) -> Iterator[Clip]:
    """The beginnings of at most ``limit`` recordings of the test part, evenly spread."""
    corpus = source.corpus
    for utterance in evenly(corpus.utterances("test"), limit):
        wave = torch.from_numpy(corpus.audio(utterance)[..., :SECONDS * corpus.sample_rate])
        yield Clip(utterance.id, wave, corpus.sample_rate)


def coded(model: Model, clips: Iterable[Clip], judges: tuple[str, ...]) -> Numbers:
    """Of a model with codes, through its codec; the spectral convergence is of all recordings together."""
    found = evaluate(codec_of(model), clips)
    means = {name: interval.mean for name in judges if (interval := found.interval(name)) is not None}
    whole = {} if found.convergence is None else {WHOLE: found.convergence}
    return {**means, **whole, "kbit/s": float(found.rows[0]["codes alone, kbit/s"]),  # type: ignore[arg-type]
            "used, %": 100 * float(np.mean([metrics.usage(count) for count in found.counts])),
            "perplexity": float(np.mean([metrics.perplexity(count) for count in found.counts]))}


@torch.no_grad()
def drawn(model: Autoencoder, clips: Iterable[Clip], judges: tuple[str, ...]) -> Numbers:
    """Of a model without, from one draw of its latent; the bit rate is its rate, which no file could have."""
    judging: dict[str, list[float | None]] = {name: [] for name in (*judges, "kbit/s")}
    for clip in clips:
        x = clip.waveform[..., :clip.waveform.shape[-1] // model.hop * model.hop]
        output, known = model(x.view(1, -1, x.shape[-1])), measures(clip.sample_rate)
        estimate = model.likelihood.mean(output.params)[0, 0]
        for name in judges:
            judging[name].append(judged(known[name], estimate, x))
        judging["kbit/s"].append(float(output.latents[0].rate) / math.log(2) * clip.sample_rate / x.shape[-1] / 1000)
    found = {name: [value for value in values if value is not None] for name, values in judging.items()}
    return {name: float(np.mean(values)) for name, values in found.items() if values}
