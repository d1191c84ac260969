"""What a codec does to recordings, in numbers: quality, rate, use of the codes, speed and memory.

Each recording is encoded, decoded and compared with itself at the codec's rate; a mean over recordings
comes with its 95 % interval. Speed is of this machine and this number of threads, so compare in one run.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from audiovae import metrics
from audiovae.audio.resample import resample
from audiovae.audio.waveform import channelled
from audiovae.codes import Codes
from audiovae.errors import AudioError
from audiovae.level_codec import AnyCodec
from audiovae.metrics import Interval, Stopwatch
from audiovae.report import Table

WHOLE = "spectral convergence of the whole set, dB"  # energies are added up, not decibels: no mean, no interval
Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Clip:
    """A recording to judge: name, waveform (T,) or (C, T), Hz, and its training speaker where known."""

    name: str
    waveform: Tensor
    sample_rate: int
    speaker: str | None = None


@dataclass
class Evaluation:
    """Measures of each recording, counts of the codes, and costs.

    rows : one dict a recording: measure -> value, None where it could not be judged.
    counts : for each quantizer how often each of its K codes was used, (K,) int64.
    stages : for each of them its level and its number in it.
    missed, whole : energies of spectra that were not met, and of all, added up over the recordings.
    encode, decode : time spent; seconds : audio done.
    """

    names: list[str] = field(default_factory=list)
    rows: list[dict[str, float | None]] = field(default_factory=list)
    counts: tuple[np.ndarray, ...] = ()
    stages: tuple[str, ...] = ()
    missed: float = 0.0
    whole: float = 0.0
    seconds: float = 0.0
    encode: Stopwatch = field(default_factory=Stopwatch)
    decode: Stopwatch = field(default_factory=Stopwatch)

    def interval(self, measure: str) -> Interval | None:
        """Mean and 95 % interval of a measure over the recordings it could judge; None if there are none."""
        values = [value for row in self.rows if (value := row[measure]) is not None]
        return metrics.mean_interval(values) if values else None

    def table(self) -> Table:
        """Every measure with its mean over recordings and how many it judged."""
        rows = []
        for measure in self.rows[0]:
            interval = self.interval(measure)
            rows.append((measure, None if interval is None else str(interval), interval.count if interval else 0))
        if self.convergence is not None:
            rows.append((WHOLE, f"{self.convergence:.2f}", len(self.rows)))
        return Table(("measure", "mean ± 95 % interval", "recordings"), rows)

    @property
    def convergence(self) -> float | None:
        """Spectral convergence of the whole set in dB; None where all of it was met, or there was nothing to meet."""
        return 10 * math.log10(self.missed / self.whole) if self.missed and self.whole else None

    def codebooks(self) -> Table:
        """Use of each quantizer's codes over all the recordings."""
        rows = [(stage, len(c), metrics.usage(c), metrics.perplexity(c))
                for stage, c in zip(self.stages, self.counts, strict=True)]
        return Table(("quantizer", "codes", "share used", "perplexity"), rows)

    def costs(self) -> Table:
        """Speed over all the recordings, with the number of threads, and the process's memory."""
        return Table(("cost", "value"), [
            ("audio, s", f"{self.seconds:.1f}"),
            ("threads", f"{torch.get_num_threads()}"),
            ("encode, × real time", f"{self.encode.times_real_time(self.seconds):.0f}"),
            ("decode, × real time", f"{self.decode.times_real_time(self.seconds):.0f}"),
            ("peak memory of the process, MB", f"{metrics.peak_memory() / 1e6:.0f}")])


def measures(sample_rate: int) -> dict[str, Measure]:
    """All measures of a reconstruction against its source, (T,) and (T,) to a number, by name and unit.

    >>> list(measures(16000))[:2]
    ['SI-SDR, dB', 'log-mel distance, dB']
    """
    return {
        "SI-SDR, dB": metrics.si_sdr,
        "log-mel distance, dB": partial(metrics.log_mel_distance, sample_rate=sample_rate),
        "multi-resolution STFT distance": metrics.stft_distance,
        "spectral convergence, dB": metrics.spectral_convergence,
        "PESQ-wb, MOS-LQO": partial(metrics.pesq_wb, sample_rate=sample_rate),
        "STOI": partial(metrics.stoi, sample_rate=sample_rate),
    }


def evaluate(codec: AnyCodec, clips: Iterable[Clip], listen: Callable[[Clip, Tensor, Tensor], None] | None = None,
             say: Callable[[Codes, Tensor], Tensor] | None = None) -> Evaluation:
    """Encode, decode and measure recordings; ``listen(clip, source, result)`` may keep some for the ear.

    ``say(codes, source)`` decodes in place of ``codec.decode(codes)``, for a model that is told more than codes.

    Raises AudioError if there is no recording, ExtraError without the extra ``metrics``.
    """
    heard = None if listen is None else lambda name, *pair: listen(*pair)
    return evaluate_each({"": codec}, clips, heard, say)[""]


def evaluate_each(codecs: Mapping[str, AnyCodec], clips: Iterable[Clip],
                  listen: Callable[[str, Clip, Tensor, Tensor], None] | None = None,
                  say: Callable[[Codes, Tensor], Tensor] | None = None) -> dict[str, Evaluation]:
    """:func:`evaluate` of several codecs, such as the levels of one model, on each recording in turn, by name."""
    results = {name: Evaluation() for name in codecs}
    for clip in clips:
        for name, codec in codecs.items():
            source, estimate = _measure(results[name], codec, clip, say)
            if listen is not None:
                listen(name, clip, source, estimate)
    if not all(result.rows for result in results.values()):
        raise AudioError("evaluate: no recording to judge.")
    return results


def _measure(result: Evaluation, codec: AnyCodec, clip: Clip, say: Callable[[Codes, Tensor], Tensor] | None
             ) -> tuple[Tensor, Tensor]:
    """Add a recording's measures; its samples at the codec's rate, and what came back."""
    source = resample(channelled(clip.waveform, codec.channels), clip.sample_rate, codec.sample_rate)
    speaker = clip.speaker if clip.speaker in codec.speakers else None
    if speaker is None and codec.speakers:
        speaker = codec.closest_speaker(source)
    with result.encode:
        codes = codec.encode(source, codec.sample_rate, speaker)
    with result.decode:
        estimate = say(codes, source) if say is not None else codec.decode(codes)
    row: dict[str, float | None] = {"code file, kbit/s": codes.kbps,
                                    "codes alone, kbit/s": round(codes.nominal_kbps, 6)}
    row |= {name: judged(judge, estimate, source) for name, judge in measures(codec.sample_rate).items()}
    counts = tuple(count for level, sizes in zip(codes.levels, codes.num_codes, strict=True)
                   for count in metrics.code_counts(level, sizes))
    result.counts = tuple(a + b for a, b in zip(result.counts, counts, strict=True)) if result.rows else counts
    result.stages = tuple(str(stage) if len(codes.levels) == 1 else f"{stage} of level {level}"
                          for level, sizes in enumerate(codes.num_codes) for stage in range(len(sizes)))
    missed, whole = metrics.spectral_energies(estimate, source)
    result.missed, result.whole = result.missed + float(missed.sum()), result.whole + float(whole.sum())
    result.names.append(clip.name)
    result.rows.append(row)
    result.seconds += codes.seconds
    return source, estimate


def judged(judge: Measure, estimate: Tensor, source: Tensor) -> float | None:
    """The measure, its mean over channels, or None where it cannot judge this recording (too short, no speech)."""
    channels = zip(estimate.view(-1, estimate.shape[-1]), source.view(-1, source.shape[-1]), strict=True)
    try:
        return float(np.mean([float(judge(*pair)) for pair in channels]))
    except AudioError:
        return None

