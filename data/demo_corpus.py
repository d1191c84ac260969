"""Render the embedded default corpus: 16 eSpeak NG voices, each saying the same sentences.

    python data/demo_corpus.py OUT [--sentences 60]

writes OUT in the layout of VCTK 0.80: wav48/p801/p801_001.wav (22,050 Hz in spite of the name, 16 bits),
txt/p801/p801_001.txt and speaker-info.txt. As all voices say the same, a conversion can be held against
what the target voice says. The voices are synthetic: the corpus proves that a pipeline runs, not quality.

The noise in the voices comes from eSpeak's own generator, seeded once, so the corpus is the same bit for
bit when it is rendered in one fresh process and in one order: hence a script, and no function to call twice.
"""

import argparse
import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from audiovae.errors import AudiovaeError, CorpusError
from audiovae.files import atomic_folder


@dataclass(frozen=True)
class Voice:
    """A speaker of the corpus. name : what eSpeak calls it, language and variant."""

    speaker: str
    name: str
    gender: str
    accent: str


VOICES = tuple(
    Voice(f"p{801 + i}", *row)
    for i, row in enumerate(
        [
            ("en-us", "M", "American"),
            ("en-us+f2", "F", "American"),
            ("en-us+f5", "F", "American"),
            ("en-us+Annie", "F", "American"),
            ("en-us+linda", "F", "American"),
            ("en-us+m3", "M", "American"),
            ("en-us+m8", "M", "American"),
            ("en-us+quincy", "M", "American"),
            ("en-us+Nguyen", "M", "American"),
            ("en-us+Jacky", "M", "American"),
            ("en-us+klatt4", "M", "American"),
            ("en-us+zac", "M", "American"),
            ("en-gb-scotland+m7", "M", "Scottish"),
            ("en-029+f3", "F", "Caribbean"),
            ("en-gb-x-rp+Gene", "M", "English"),
            ("en-us+robosoft", "M", "American"),
        ]
    )
)

SENTENCES = tuple(
    line.strip()
    for line in """
    The garden gate was open, and the goats had eaten every bean.
    Would you rather walk along the river or stay at home?
    My younger brother fixed the radio with a spoon and some glue.
    Cheap shoes rarely survive a winter in the mountains.
    She thought the old lighthouse looked lonely in the fog.
    Please measure the flour twice before you add the yeast.
    A jar of orange marmalade stood on the kitchen shelf.
    The judge asked a simple question and nobody could answer.
    We pulled the heavy boat up the beach before the storm.
    How many pages of the book have you read this week?
    Violet clouds hung over the valley all through the evening.
    The boy with the yellow coat is waving at the bus.
    Fresh paint takes about three hours to dry in this weather.
    I found your keys beneath the cushion on the blue chair.
    Nothing tastes better than warm bread after a long day.
    The orchestra tuned up while people searched for their seats.
    Every Thursday my aunt plays chess with her neighbour.
    Turn left at the church and follow the narrow path uphill.
    He laughed so loudly that the baby woke up next door.
    Several large whales passed the harbour early this morning.
    The teacher drew a perfect circle without looking at the board.
    Could someone close the window before the papers blow away?
    Two thin foxes crossed the frozen field without a sound.
    Our train leaves at a quarter past eight from platform nine.
    The doctor advised him to sleep more and worry less.
    Purple grapes were hanging over the wall of the vineyard.
    They measured the width of the bridge with a piece of rope.
    I usually choose the quiet table near the fireplace.
    A strange noise came from somewhere under the floor.
    The museum keeps a bright green beetle in a box of glass.
    Snow began to fall while we were unloading the van.
    Her voice was calm, though her hands were shaking.
    You should never push a sleeping dog off the sofa.
    The farmer sold his last horse to a circus from Oslo.
    Both engines failed, but the pilot landed on the highway.
    Bring me the small hammer and a handful of nails.
    Why does the moon look larger when it is close to the hills?
    The cook threw a pinch of ginger into the boiling soup.
    After the match the players shook hands and drove away.
    It took us forty minutes to find a place to park.
    Joyful children were splashing in the shallow pool.
    The author signed each copy with a thick black pen.
    Smooth stones are good for skipping across the lake.
    The clerk counted the coins again and shook his head.
    Leather boots and woollen gloves lay beside the stove.
    Has anybody told the captain that the rudder is broken?
    An early train carried fish and vegetables to the market.
    The puzzle is missing at least five pieces of sky.
    We usually have lunch outside under the walnut tree.
    His watch stopped at midnight and never ran again.
    The choir sang a slow song about ships and the north wind.
    Rough weather forced the fishermen to change their course.
    I would like a cup of tea with lemon but without sugar.
    The white owl turned its head and stared at the torch.
    Four huge boxes arrived, and each of them was empty.
    Nobody noticed the thief who climbed over the fence.
    The new theatre will be finished by the end of August.
    Keep the medicine in a cool place, away from children.
    A thousand birds rose from the reeds at the same moment.
    The answer, as usual, was written on the back of the sheet.
    """.strip().splitlines()
)


class Synthesizer:
    """eSpeak NG by ctypes, seeded: text to 16-bit samples at ``sample_rate`` Hz. One a process.

    Raises CorpusError when the library is not installed, does not start, or a voice is not there.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise CorpusError("eSpeak NG is missing: pip install 'audiovae[demo]'.") from None
        self.data = Path(espeakng_loader.get_data_path())
        self.library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        synchronous, buffer_ms = 2, 500
        self.sample_rate = self.library.espeak_Initialize(synchronous, buffer_ms, str(self.data).encode(), 0)
        if self.sample_rate <= 0:
            raise CorpusError(f"eSpeak NG does not start with the data in {self.data}: reinstall espeakng-loader.")
        self.library.espeak_ng_SetRandSeed(1)
        self.blocks: list[np.ndarray] = []
        receive = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = receive(self._receive)  # held here: the library keeps only its address
        self.library.espeak_SetSynthCallback(self.callback)

    def speak(self, voice: str, text: str) -> np.ndarray:
        """The samples (T,) int16 of a text in a voice."""
        variant = voice.partition("+")[2]
        # An unknown variant gives the plain voice without a word.
        if variant and not (self.data / "voices" / "!v" / variant).is_file():
            raise CorpusError(f"eSpeak NG has no variant '{variant}': install espeakng-loader 0.2.4.")
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise CorpusError(f"eSpeak NG refuses the voice '{voice}': install espeakng-loader 0.2.4.")
        self.blocks.clear()
        utf8 = 1
        raw = text.encode() + b"\0"
        status = self.library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 0, 0, utf8, None, None)
        if status != 0 or not self.blocks:
            raise CorpusError(f"eSpeak NG gave no sound for '{text}' in the voice '{voice}' (status {status}).")
        return np.concatenate(self.blocks)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def render(out: Path, sentences: int) -> float:
    """Write the corpus folder ``out``, whole or not at all; the seconds of speech in it."""
    if not 1 <= sentences <= len(SENTENCES):
        raise CorpusError(f"--sentences: wanted 1 to {len(SENTENCES)}, got {sentences}.")
    seconds = 0.0
    with atomic_folder(out) as folder:
        synthesizer = Synthesizer()
        for voice in tqdm(VOICES, "rendering", unit="voice", disable=None):
            sound, texts = folder / "wav48" / voice.speaker, folder / "txt" / voice.speaker
            sound.mkdir(parents=True)
            texts.mkdir(parents=True)
            for number, text in enumerate(SENTENCES[:sentences], 1):
                name = f"{voice.speaker}_{number:03d}"
                samples = synthesizer.speak(voice.name, text)
                soundfile.write(sound / f"{name}.wav", samples, synthesizer.sample_rate, subtype="PCM_16")
                (texts / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
                seconds += len(samples) / synthesizer.sample_rate
        rows = ["ID  AGE  GENDER  ACCENTS  REGION"]
        rows += [f"{voice.speaker}  -  {voice.gender}  {voice.accent}  {voice.name}" for voice in VOICES]
        (folder / "speaker-info.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return seconds


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Render the demo corpus: 16 voices in the layout of VCTK 0.80.")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES), help="for each voice (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        seconds = render(arguments.out, arguments.sentences)
    except AudiovaeError as error:
        print(f"demo_corpus: {error}", file=sys.stderr)
        return 2
    count = len(VOICES) * arguments.sentences
    print(f"{arguments.out}: {count} sentences in {len(VOICES)} voices, {seconds / 60:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
