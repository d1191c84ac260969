"""How a folder of recordings becomes a corpus, by configuration."""

from dataclasses import dataclass
from typing import Literal

from audiovae.audio.io import Channel
from audiovae.audio.layouts import LayoutName, Microphone
from audiovae.audio.splits import By
from audiovae.config import Config
from audiovae.errors import ConfigError


@dataclass(frozen=True)
class PrepareConfig(Config):
    """How a folder of recordings becomes a corpus."""

    sample_rate: int = 16_000
    """Hz of the corpus; recordings of other rates are resampled."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the recordings lie: VCTK, LibriSpeech or LibriTTS, a folder a speaker, flat, or music with its tags."""
    mic: Microphone = "mic1"
    """Microphone of VCTK 0.92."""
    channel: Channel = "mix"
    """Mean of all channels, or one of them from 0."""
    channels: Literal[1, 2] = 1
    """Channels of the corpus; a recording of one channel fills both."""
    min_seconds: float = 0.3
    """Recordings shorter than this, after trimming, are rejected."""
    trim: float | None = None
    """Cut ends that stay so many dB below the loudest part."""
    loudness: float | None = None
    """Bring every recording to so many LUFS, such as -23."""
    test_by: Literal["speaker", "sentence", "given"] = "sentence"
    """What test shares with no other part: speakers, sentences, or speakers as split.txt says."""
    valid_by: By = "sentence"
    """What valid shares with no part of train."""
    test: float = 0.05
    """Fraction of the speakers or sentences kept for test; 0 for none."""
    valid: float = 0.05
    """Fraction of the rest kept for valid; 0 for none."""
    seed: int = 0
    """Another seed draws another split."""
    workers: int = 0
    """Recordings read at a time; 0 for one a core."""

    def __post_init__(self) -> None:
        if not 100 <= self.sample_rate <= 384_000:
            raise ConfigError(f"sample_rate: wanted 100 to 384000 Hz, got {self.sample_rate}.")
        if not (0 <= self.test < 1 and 0 <= self.valid < 1):
            raise ConfigError(f"test and valid: wanted fractions in [0, 1), got {self.test} and {self.valid}.")
        if self.workers < 0:
            raise ConfigError(f"workers: wanted 0, one a core, or more, got {self.workers}.")
        if self.channels == 2 and self.channel != "mix":
            raise ConfigError(f"channel: {self.channel} is one of two, but channels is 2: leave either out.")


MUSIC = PrepareConfig(sample_rate=44_100, layout="music", min_seconds=5.0, test_by="speaker", valid_by="speaker")
"""How a folder of music becomes a corpus: no artist in two parts."""
