"""Who spoke, told from a recording's codes: how much of the voice they keep. At chance, nothing leaks.

    python recipes/vctk_conversion/probe.py corpora/vctk --models voice-16k speech-16k

A linear classifier is taught the speakers by half of the recordings of each and asked about the other half. It sees
how often each code occurs, of the first codebook, of the first two and so on, or the mean and deviation of the latents
that the codes stand for. It is calibrated first: from log-mel spectra it must know the voices, and with the speakers
dealt out by lot it must be at chance, or nothing else that it says would mean much.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from trials import ended

from audiovae import Codec
from audiovae.audio.corpus import Corpus, Split, Utterance
from audiovae.audio.features import LogMel
from audiovae.checkpoint import DEFAULT
from audiovae.errors import CheckpointError, CorpusError
from audiovae.metrics import Interval, code_counts, mean_interval
from audiovae.report import Table

Rows = NDArray[np.float64]
MANY = 8  # recordings that a speaker must have: half teach
KNOWN = 0.5  # share that the probe must tell from spectra


@dataclass(frozen=True)
class Arguments:
    """Tell how much of a voice is in codes.

    Example: python recipes/vctk_conversion/probe.py corpora/vctk --models voice-16k
    """

    corpus: tyro.conf.Positional[str]
    """A prepared corpus."""
    models: tuple[str, ...] = (DEFAULT,)
    """Models with codes: runs, checkpoints or names."""
    part: Split = "test"
    """Whose speakers are asked about."""
    most: int = 20
    """Recordings of each speaker, at most."""


def main(argv: list[str]) -> int:
    arguments = tyro.cli(Arguments, args=argv)
    return ended("probe", lambda: probed(arguments))


def probed(arguments: Arguments) -> None:
    """Calibrate, ask, and print. CorpusError where there are too few recordings, CheckpointError without codes."""
    corpus = Corpus.open(arguments.corpus)
    corpus.mono("the probe")
    utterances = chosen(corpus, arguments)
    speakers = np.array([utterance.speaker for utterance in utterances])
    mel = LogMel(corpus.sample_rate, n_fft=round(0.04 * corpus.sample_rate), hop=round(0.01 * corpus.sample_rate),
                 num_mels=40)
    spectra = np.stack([moments(mel(torch.from_numpy(corpus.audio(u))[None, None])[0].numpy()) for u in utterances])
    dealt = np.random.default_rng(0).permutation(speakers)
    rows = [("log-mel spectra", "mean, deviation", told(spectra, speakers)),
            ("the same, speakers by lot", "mean, deviation", told(spectra, dealt))]
    for model in arguments.models:
        rows += [(model, what, told(features, speakers)) for what, features in seen(model, corpus, utterances).items()]
    count = len(np.unique(speakers))
    print(Table(("recordings as", "seen by the probe", "speakers told, %"),
                [(name, what, str(share)) for name, what, share in rows]).text())
    known, by_lot = rows[0][2], rows[1][2]
    chance = 100 / count
    used = known.mean >= 100 * KNOWN and by_lot.mean - by_lot.half_width <= chance
    print(f"\n{len(utterances)} recordings of {count} speakers, chance {chance:.1f} %; mean over speakers with its "
          f"95 % interval. The probe {'is' if used else 'FAILED its calibration and is not'} to be believed.")


def chosen(corpus: Corpus, arguments: Arguments) -> list[Utterance]:
    """Recordings of the speakers with many, as many of each at most."""
    by_speaker: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances(arguments.part):
        by_speaker.setdefault(utterance.speaker, []).append(utterance)
    many = [its[:arguments.most] for its in by_speaker.values() if len(its[:arguments.most]) >= MANY]
    if len(many) < 2:
        raise CorpusError(f"corpus {corpus.folder}: {len(many)} {arguments.part} speakers have {MANY} recordings, at "
                          "least 2 are wanted: take another part, or more of each with --most.")
    return [utterance for its in many for utterance in its]


def seen(model: str, corpus: Corpus, utterances: list[Utterance]) -> dict[str, Rows]:
    """What the probe sees of each recording (N, F), by name."""
    codec = Codec.from_pretrained(model, prior=False)
    if not codec.model.code_levels:
        raise CheckpointError(f"model {model} has no codes: name one that has.")
    its = codec.speakers[0] if codec.speakers else None  # the codes are the same, and none is looked for
    sizes = codec.model.code_levels[0].num_codes
    shares: list[list[Rows]] = [[] for _ in sizes]
    latents = []
    for utterance in tqdm(utterances, model, unit="file", disable=None):
        codes = codec.encode(corpus.audio(utterance)[None], corpus.sample_rate, its).levels[0]
        for kept, counts in zip(shares, code_counts(codes, sizes), strict=True):
            kept.append(np.sqrt(counts / counts.sum()))  # of shares, roots differ as much as they are unsure
        with torch.no_grad():
            latents.append(moments(codec.model.bottleneck.decode(torch.from_numpy(codes)[None])[0].numpy()))
    parts = [np.stack(kept) for kept in shares]
    found = {f"codes, {q + 1} of {len(parts)}": np.concatenate(parts[:q + 1], axis=1) for q in range(len(parts))}
    return found | {"latents": np.stack(latents)}


def moments(x: NDArray[Any]) -> Rows:
    """Mean and deviation over time: (F, L) to (2 F,)."""
    return np.concatenate([x.mean(1), x.std(1)])


def told(features: Rows, speakers: NDArray[np.str_]) -> Interval:
    """Percent of every other recording (N, F) whose speaker is told, by what the rest teach: mean over speakers."""
    learnt = np.arange(len(speakers)) % 2 == 0
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(features[learnt], speakers[learnt])
    right = probe.predict(features[~learnt]) == speakers[~learnt]
    return mean_interval(100 * right[speakers[~learnt] == name].mean() for name in np.unique(speakers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
