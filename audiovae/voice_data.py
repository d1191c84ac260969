"""Voices for training: a crop to be said, another recording of the same voice as its reference, and the crop's prosody.

Both are varied alike, speed and microphone and room, so that what varies is part of the voice: a corpus of four hundred
speakers then has far more of them. And of some crops the encoder hears what the model itself makes of them in another
voice, as SelfVC has it (Neekhara 2023): a code that keeps the voice is then no help.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.augment import AugmentConfig, Share
from audiovae.audio.corpus import Corpus, Split
from audiovae.audio.crops import CorpusSource, UtteranceSampler
from audiovae.audio.excitation import NOISE, Excitation
from audiovae.audio.melody import corpus_pitch
from audiovae.audio.pitch import at_pitch_of, level, told
from audiovae.config import Config, Count, Positive, Whole
from audiovae.shapes import Batch, Condition, DataSpec, grid_of


class VoiceSampler(UtteranceSampler):
    """Crops of one split with all that a voice's decoder is told: a batch is a function of (seed, step, rank).

    Shapes of a batch: x (B, 1, T), reference (B, 1, R), prosody (B, 3, T / hop), excitation (B, 2, T). The reference is
    another utterance of the speaker, or another part of the same where there is only one; zeros follow a short one.
    ``disguised`` of the examples, the first ones from step ``disguised_from`` on, come with the voice of the next as
    ``condition.other``, at its pitch.
    """

    def __init__(self, corpus: Corpus, split: Split, samples: int, reference: int, hop: int, batch_size: int, seed: int,
                 augment: AugmentConfig | None = None, disguised: int = 0, disguised_from: int = 0):
        super().__init__(corpus, split, samples, batch_size, seed, augment)
        self.disguised, self.disguised_from = disguised, disguised_from
        grid_of("voice", (samples,), hop)
        self.reference, self.hop = reference, hop
        self.pitch = corpus_pitch(corpus, hop)
        frames = np.cumsum([0] + [-(-u.length // hop) for u in corpus.all])
        place = {u.id: int(frames[i]) for i, u in enumerate(corpus.all)}
        self.places = [place[u.id] for u in self.utterances]
        self.by_speaker: dict[str, list[int]] = {}
        for i, u in enumerate(self.utterances):
            self.by_speaker.setdefault(u.speaker, []).append(i)

    def batch(self, step: int, rank: int = 0) -> Batch:
        dice, which = self._drawn(step, rank)
        examples = [self.example(int(u), dice) for u in which]
        batch = _stacked(examples)
        if not self.disguised or step < self.disguised_from:
            return batch
        told = [example.condition for example in examples]
        others = [self._other_voice(told[i], told[(i + 1) % len(told)], dice) for i in range(self.disguised)]
        return replace(batch, condition=replace(batch.condition, other=_joined(others)))

    def example(self, which: int, dice: np.random.Generator) -> Batch:
        """A batch of one: a crop of the utterance ``which`` and its company."""
        utterance = self.utterances[which]
        speed = self.augment.stretch(dice) if self.augment else None
        wanted = self.augment.source(self.samples, speed) if self.augment else self.samples
        start = int(dice.integers(max(utterance.length - wanted, 0) // self.hop + 1)) * self.hop
        other, begin = self._other(which, start + wanted // 2, dice)
        more = self.augment.source(self.reference, speed) if self.augment else self.reference
        x, reference = np.zeros(wanted, np.float32), np.zeros(more, np.float32)
        self._read(which, start, x)
        self._read(other, begin, reference)
        pitch = self._pitch(which, start // self.hop, speed)
        if speed is not None and self.augment is not None:
            same = int(dice.integers(2**63))  # the same draws for both: one microphone, one room
            x = self.augment(x, self.samples, speed, np.random.default_rng(same))
            reference = self.augment(reference, self.reference, speed, np.random.default_rng(same))
        wave, melody = torch.from_numpy(x), torch.from_numpy(pitch)
        condition = Condition(
            label=torch.from_numpy(self._labels[[which]]),
            reference=torch.from_numpy(reference)[None, None],
            prosody=told(melody.abs(), melody > 0, level(wave, self.hop))[None],
            excitation=self._excitation(np.abs(pitch), dice))
        return Batch(wave[None, None], condition, (f"{utterance.id} @ {start / self.corpus.sample_rate:.2f} s",))

    def _other_voice(self, own: Condition, other: Condition, dice: np.random.Generator) -> Condition:
        """What a decoder is told to say one example in the voice of another."""
        assert own.prosody is not None and other.prosody is not None
        prosody, pitch = at_pitch_of(own.prosody[0], other.prosody[0])
        excitation = self._excitation(pitch.numpy(), dice)
        return Condition(other.label, reference=other.reference, prosody=prosody[None], excitation=excitation)

    def _excitation(self, pitch: NDArray[np.float32], dice: np.random.Generator) -> Tensor:
        """Pulses and noise from any place on, (1, 2, T)."""
        rate = self.corpus.sample_rate
        return Excitation(pitch, rate, self.hop, float(dice.random()), int(dice.integers(NOISE)))(0, len(pitch))[None]

    def _other(self, which: int, middle: int, dice: np.random.Generator) -> tuple[int, int]:
        """Another utterance of the speaker and where to begin, or the half of this one where the crop is not."""
        same = self.by_speaker[self.utterances[which].speaker]
        if len(same) > 1:
            other = same[(same.index(which) + 1 + int(dice.integers(len(same) - 1))) % len(same)]
            room = max(self.utterances[other].length - self.reference, 0)
            return other, int(dice.integers(room + 1))
        length = self.utterances[which].length
        late = max(length - self.reference, 0)
        return which, (0 if middle > length // 2 else late)

    def _pitch(self, which: int, first: int, speed: tuple[int, int] | None) -> NDArray[np.float32]:
        """Pitch of the crop's frames, Hz, negative where there is none; at another speed it is higher, or lower."""
        count, (up, down) = self.samples // self.hop, speed or (1, 1)
        at = np.minimum(((np.arange(count) + 0.5) * up / down).astype(int) + first,
                        -(-self.utterances[which].length // self.hop) - 1)
        return (self.pitch[self.places[which] + at] * np.float32(up / down)).astype(np.float32)


def _stacked(examples: list[Batch]) -> Batch:
    return Batch(torch.cat([e.x for e in examples]), _joined([e.condition for e in examples]),
                 tuple(n for e in examples for n in e.names))


def _joined(told: list[Condition]) -> Condition:
    label, reference, prosody, excitation = (torch.cat([getattr(one, key) for one in told])
                                             for key in ("label", "reference", "prosody", "excitation"))
    return Condition(label, reference=reference, prosody=prosody, excitation=excitation)


class VoiceSource(CorpusSource):
    """A prepared corpus as voices: see :class:`VoiceSampler`."""

    def __init__(self, config: "VoiceData", seed: int):
        super().__init__(config.corpus, config.validation_batches, seed)
        self.corpus.mono("voice data")
        self.config = config
        self.spec = DataSpec(channels=1, dims=1, sample_rate=self.corpus.sample_rate, labels=self.corpus.speakers,
                             prosody=config.hop)

    def fit(self, hop: int) -> None:
        config, rate = self.config, self.corpus.sample_rate
        samples = max(1, round(config.seconds * rate / hop)) * hop
        reference = round(config.reference_seconds * rate)
        self.spec = replace(self.spec, size=(samples,))
        self.train = VoiceSampler(self.corpus, "train", samples, reference, config.hop, config.batch_size, self.seed,
                                  config.augment, round(config.disguised * config.batch_size), config.disguised_from)
        self.valid = VoiceSampler(self.corpus, "valid", samples, reference, config.hop, config.batch_size, seed=0)


@dataclass(frozen=True)
class VoiceData(Config):
    """A prepared corpus of voices: crops of ``seconds`` with ``reference_seconds`` of the same speaker.

    hop : samples to a frame of pitch and level.
    augment : how crop and reference are varied together; None leaves them as they are.
    disguised : share of a batch that the encoder hears in another voice, as the model says it by then.
    disguised_from : step from which it does; before, a model without codes says nothing.
    """

    kind: Literal["voice"] = "voice"
    corpus: str = ""
    seconds: Positive = 1.5
    reference_seconds: Positive = 3.0
    hop: Count = 160
    batch_size: Count = 8
    validation_batches: Count = 4
    augment: AugmentConfig | None = None
    disguised: Share = 0.0
    disguised_from: Whole = 2000

    def build(self, seed: int) -> VoiceSource:
        return VoiceSource(self, seed)
