"""Variation of recordings in training: speed, microphone, bandwidth, room and level, each crop by its own draw.

A model meets one microphone and room a corpus, and many once it is used. All of it but the level is one product
in the frequency domain: the spectrum is cut or extended (another speed), then multiplied with what a
microphone, a narrow band and a room would do.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from pydantic import Field

from audiovae.config import Config, Weight

Share = Annotated[float, Field(ge=0, le=1)]
# Source samples to a sample, each with its weight: the transforms stay of small primes, so fast, and so many
# crops keep the speed they had.
SPEEDS = ((5, 6), (8, 9), (15, 16), (1, 1), (1, 1), (1, 1), (16, 15), (9, 8), (6, 5))
UNIT = 2880  # a multiple of every denominator
ROOM_SECONDS = 0.3
PEAK = 0.99


@dataclass(frozen=True)
class AugmentConfig(Config):
    """How training crops are varied; a codec's input and target are varied alike.

    share : of crops that are varied at all; the other settings are of these.
    gain : level moves by up to this many dB up or down, less where the peak would pass full scale.
    equalizer : dB, standard deviation of a smooth random response with a knot every octave.
    narrow : share whose band ends somewhere between 3 kHz and half the sample rate.
    room : share that is put into a room: noise that decays by 60 dB in 0.1 to 0.5 s, 0 to 20 dB below the voice.
    speed : share that is played up to a fifth slower or faster, pitch and all.
    """

    share: Share = 0.6
    gain: Weight = 10.0
    equalizer: Weight = 4.0
    narrow: Share = 0.2
    room: Share = 0.2
    speed: Share = 1.0

    def build(self, sample_rate: int) -> "Augment":
        return Augment(self, sample_rate)


class Augment:
    """Crops varied by the draws of a generator: the same generator gives the same crop.

    :meth:`stretch` draws how much source a crop of ``samples`` wants, :meth:`__call__` makes the crop of it.

    >>> augment = AugmentConfig(share=1.0).build(sample_rate=16000)
    >>> dice = np.random.default_rng(0)
    >>> speed = augment.stretch(dice)
    >>> source = np.zeros(augment.source(16000, speed), np.float32)
    >>> augment(source, 16000, speed, dice).shape
    (16000,)
    """

    def __init__(self, config: AugmentConfig, sample_rate: int):
        self.config, self.sample_rate = config, sample_rate
        self.room_samples = round(ROOM_SECONDS * sample_rate)

    def stretch(self, dice: np.random.Generator) -> tuple[int, int] | None:
        """Source samples to crop samples, as a fraction; None for a crop that stays as it is."""
        if dice.random() >= self.config.share:
            return None
        return SPEEDS[dice.integers(len(SPEEDS))] if dice.random() < self.config.speed else (1, 1)

    def source(self, samples: int, speed: tuple[int, int] | None) -> int:
        """How many source samples a crop of ``samples`` is made of."""
        up, down = speed or (1, 1)
        return -(-samples * up // down)

    def __call__(self, x: NDArray[np.float32], samples: int, speed: tuple[int, int],
                 dice: np.random.Generator) -> NDArray[np.float32]:
        """The crop (..., samples) of source x (..., ``source(samples, speed)``), then zeros; channels are alike."""
        config, (up, down) = self.config, speed
        size = -(-(samples + self.room_samples) // UNIT) * UNIT
        spectrum: Any = scipy.fft.rfft(x, size * up // down)
        bins = size // 2 + 1
        beyond = [(0, 0)] * (x.ndim - 1) + [(0, max(0, bins - spectrum.shape[-1]))]
        spectrum = np.pad(spectrum[..., :bins], beyond) * (down / up)
        hertz = np.arange(bins) * (self.sample_rate / size)
        if config.equalizer:
            spectrum *= self._microphone(hertz, dice)
        if dice.random() < config.narrow:
            spectrum *= self._band(hertz, dice)
        if dice.random() < config.room:
            spectrum *= scipy.fft.rfft(self._room(dice), size)
        y: Any = scipy.fft.irfft(spectrum, size)[..., :samples]  # type: ignore[index]
        gain = 10 ** (dice.uniform(-config.gain, config.gain) / 20)
        return (y * min(gain, PEAK / max(float(np.abs(y).max()), 1e-9))).astype(np.float32)

    def _microphone(self, hertz: NDArray, dice: np.random.Generator) -> NDArray[np.float32]:
        """A smooth response: normal gains at octaves from 62.5 Hz on, straight in dB between them."""
        knots = np.arange(0, np.log2(self.sample_rate / 2 / 62.5) + 1)
        decibels = dice.normal(0, self.config.equalizer, len(knots))
        octave = np.log2(np.maximum(hertz, 62.5) / 62.5)
        return (10 ** (np.interp(octave, knots, decibels) / 20)).astype(np.float32)

    def _band(self, hertz: NDArray, dice: np.random.Generator) -> NDArray[np.float32]:
        """A low-pass whose edge is a tenth of its frequency wide."""
        edge = dice.uniform(min(3000, self.sample_rate / 4), self.sample_rate / 2)
        return (1 / (1 + np.exp(np.clip((hertz - edge) / (0.02 * edge), -60, 60)))).astype(np.float32)

    def _room(self, dice: np.random.Generator) -> NDArray[np.float32]:
        """An impulse response: the direct sound, then decaying noise of an energy of its own."""
        seconds = np.arange(self.room_samples) / self.sample_rate
        tail = dice.standard_normal(self.room_samples) * 10 ** (-3 * seconds / dice.uniform(0.1, 0.5))
        tail *= 10 ** (-dice.uniform(0, 20) / 20) / np.linalg.norm(tail)
        tail[0] = 1
        return tail.astype(np.float32)
