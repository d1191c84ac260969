"""Quality over bit rate on held-out recordings: a model at all its rates, beside Opus and Codec2 run on the spot.

    python benchmarks/rate_quality.py "librispeech=recordings/ls*/*" emodb --picture docs/rate_quality.png
    python benchmarks/rate_quality.py corpora/speech16k --model runs/small --limit 10 -o quality.json
    python benchmarks/rate_quality.py corpora/music24k --model runs/music-24k --music

An input is a folder, a glob or a file, with a name for its group before a "=" or not, or a corpus made by `audiovae
prepare`, of which the test part is taken. Where a folder above a recording holds split.txt, only speakers marked `test`
in it are. A recording that any measure cannot judge is left out for every coder alike.

Rates are of what was written, but for headers: of a code file its packets with their checksums, by the prior that lies
beside the model where one does; a model's setting names the rate that its codes would have at log K bits each. Of
Opus its audio packets, without Ogg pages (opusenc at its defaults, variable bit rate, complexity 10); of Codec2 its
mode's, since its program fills frames up to whole bytes. All is compared with the source at 16 kHz; Codec2 works at 8
kHz and is resampled, PESQ-nb compares at 8 kHz. No level is changed. What a program delays, beyond what it takes back
itself, is found by correlating mel bands and taken off.

With `--music` all is compared at 24 kHz, in 20 s from the middle of each recording, by measures that fit music; Codec2,
which is of speech, is left out.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from audiovae import metrics
from audiovae.audio.corpus import Corpus
from audiovae.audio.features import LogMel
from audiovae.audio.io import AUDIO_SUFFIXES, read_audio
from audiovae.audio.resample import resample
from audiovae.audio.splits import read_split_table
from audiovae.checkpoint import DEFAULT, load_model
from audiovae.codec import BEAM, Codec
from audiovae.codes.prior import find_prior
from audiovae.errors import AudioError
from audiovae.files import atomic_file, expand_inputs
from audiovae.metrics import mean_interval
from audiovae.rates import rates
from audiovae.report import Table

SPEECH, MUSIC, NARROW = 16000, 24000, 8000  # Hz
MIDDLE = 20  # seconds of music
OPUS, CODEC2 = (6, 8, 12, 16, 24), {"700C": 0.7, "1300": 1.3, "3200": 3.2}  # kbit/s
DELAY = 0.06  # seconds at most that a program may be late
COLOURS = {"Opus": "#dd7a36", "Codec2": "#7a7a7a"}
OURS = "#3f86c9"
MEASURES = {
    SPEECH: {"PESQ-wb": metrics.pesq_wb, "PESQ-nb": metrics.pesq_nb, "STOI": metrics.stoi},
    MUSIC: {"log-mel, dB": metrics.log_mel_distance, "STFT": lambda x, y, rate: metrics.stft_distance(x, y),
            "chroma": metrics.chroma_similarity, "rhythm": metrics.rhythm_similarity},
}
ALL = "all"  # the group of every recording


@dataclass(frozen=True)
class Coder:
    """``run`` takes a waveform (T,) at the rate of comparison to what comes back of it, as long, and kbit/s."""

    system: str
    setting: str
    run: Callable[[Tensor], tuple[Tensor, float]]


@dataclass(frozen=True)
class Clip:
    group: str
    name: str
    load: Callable[[], Tensor]


def ours(name: str, rate: int, beam: int) -> list[Coder]:
    """The model at each of its rates, lowest first."""
    model, prior = load_model(name), find_prior(name)
    every = rates(Codec(model).model)  # type: ignore[arg-type]

    def at(kbps: float) -> Callable[[Tensor], tuple[Tensor, float]]:
        codec = Codec(model, kbps, prior, beam)

        def run(wave: Tensor) -> tuple[Tensor, float]:
            codes = codec.encode(wave, rate)
            return resample(codec.decode(codes), codec.sample_rate, rate), codes.packet_kbps

        return run

    return [Coder("audiovae", f"{kbps:g} kbit/s", at(kbps)) for kbps in every]


def opus(kbps: int, rate: int) -> Callable[[Tensor], tuple[Tensor, float]]:
    def run(wave: Tensor) -> tuple[Tensor, float]:
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (str(Path(folder) / name) for name in ("in.wav", "coded.opus", "out.wav"))
            soundfile.write(source, wave.numpy(), rate, subtype="PCM_16")
            call("opusenc", "--quiet", "--bitrate", str(kbps), "--comp", "10", source, coded)
            call("opusdec", "--quiet", "--rate", str(rate), "--float", coded, back)
            estimate, _ = soundfile.read(back, dtype="float32")
            size = ogg_payload(Path(coded).read_bytes())
        return aligned(torch.from_numpy(estimate), wave, rate), size * 8 * rate / len(wave) / 1000

    return run


def ogg_payload(data: bytes) -> int:
    """Bytes of an Ogg Opus file's audio packets: all but the pages' heads and the two packets of metadata.

    >>> page = lambda *sizes: b"OggS" + bytes(22) + bytes([len(sizes), *sizes]) + bytes(sum(sizes))
    >>> ogg_payload(page(19) + page(255, 45) + page(20, 255) + page(5, 30))  # 20, then 260 over two pages, then 30
    310
    """
    sizes, size, at = [], 0, 0
    while at < len(data):
        table = data[at + 27:at + 27 + data[at + 26]]
        for part in table:
            size += part
            if part < 255:  # a packet goes on after a full part
                sizes.append(size)
                size = 0
        at += 27 + len(table) + sum(table)
    return sum(sizes[2:])


def codec2(mode: str) -> Callable[[Tensor], tuple[Tensor, float]]:
    def run(wave: Tensor) -> tuple[Tensor, float]:
        narrow = resample(wave, SPEECH, NARROW)
        frame = NARROW // 25  # 40 ms, a whole number of every mode's frames; one more, for what comes late
        samples = np.zeros((len(narrow) // frame + 2) * frame, dtype="<i2")
        samples[:len(narrow)] = (narrow.numpy() * 32767).round().clip(-32768, 32767)
        with tempfile.TemporaryDirectory() as folder:
            source, coded, back = (Path(folder) / name for name in ("in.raw", "coded.bin", "out.raw"))
            source.write_bytes(samples.tobytes())
            call("c2enc", mode, str(source), str(coded))
            call("c2dec", mode, str(coded), str(back))
            estimate = torch.from_numpy(np.fromfile(back, dtype="<i2").astype(np.float32) / 32768)
        return aligned(resample(estimate, NARROW, SPEECH), wave, SPEECH), CODEC2[mode]

    return run


def call(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def aligned(estimate: Tensor, wave: Tensor, rate: int) -> Tensor:
    """The estimate moved earlier by what it is late, to a millisecond, and as long as the wave."""
    step = rate // 1000
    mel = LogMel(rate, n_fft=512, hop=step, num_mels=20)
    x, y = (mel(part[None, None])[0] for part in (estimate, wave))
    x, y = (bands - bands.mean(1, keepdim=True) for bands in (x, y))
    n = x.shape[1] + y.shape[1]
    correlation = torch.fft.irfft((torch.fft.rfft(x, n) * torch.fft.rfft(y, n).conj()).sum(0), n)
    late = int(correlation[:round(DELAY * 1000) + 1].argmax()) * step
    moved = estimate[late:late + len(wave)]
    return torch.cat([moved, moved.new_zeros(len(wave) - len(moved))])


def peers(rate: int) -> list[Coder]:
    """Opus and, for speech, Codec2 where their programs are; one line says which are not."""
    wanted = {("opusenc", "opusdec"): ("Opus", "opus-tools", [Coder("Opus", f"{k}", opus(k, rate)) for k in OPUS])}
    if rate == SPEECH:
        wanted["c2enc", "c2dec"] = ("Codec2", "codec2", [Coder("Codec2", mode, codec2(mode)) for mode in CODEC2])
    found = []
    for programs, (name, package, coders) in wanted.items():
        if all(map(shutil.which, programs)):
            found += coders
        else:
            print(f"{' and '.join(programs)} are not there (Debian package {package}): {name} is left out.")
    return found


def clips(inputs: Sequence[str], limit: int, seed: int, rate: int) -> Iterator[Clip]:
    """Up to ``limit`` recordings of each group, drawn by ``seed``."""
    groups: dict[str, list[Clip]] = {}
    for given in inputs:
        named = "=" in given and not Path(given).exists()
        name, path = given.split("=", 1) if named else (Path(given).name, given)
        groups.setdefault(name, []).extend(listed(name, path, rate))
    for found in groups.values():
        order = np.random.default_rng(seed).permutation(len(found))
        yield from (found[i] for i in sorted(order[:limit or len(found)]))


def listed(group: str, path: str, rate: int) -> Iterator[Clip]:
    if (Path(path) / "corpus.json").exists():
        corpus = Corpus.open(path)
        for u in corpus.utterances("test"):
            yield Clip(group, u.id, lambda u=u: resample(torch.from_numpy(corpus.audio(u)), corpus.sample_rate, rate))
    else:
        for item in expand_inputs([path], AUDIO_SUFFIXES):
            if held_out(item.path):
                yield Clip(group, str(item.path), lambda p=item.path: read_audio(p, rate)[0][0])


def held_out(path: Path) -> bool:
    """Whether the recording's speaker is marked `test` by a split.txt above it; without one, all are."""
    for folder in path.parents:
        if (folder / "split.txt").exists():
            return split_table(folder / "split.txt").get(path.relative_to(folder).parts[0]) == "test"
    return True


split_table = cache(read_split_table)

Row = dict[str, float]


def measured(coder: Coder, wave: Tensor, rate: int) -> Row:
    estimate, kbps = coder.run(wave)
    return {"kbit/s": kbps} | {name: float(judge(estimate, wave, rate)) for name, judge in MEASURES[rate].items()}


def summary(results: dict[Coder, list[Row]], groups: list[str], measures: Sequence[str]) -> Table:
    """A row for each group and coder; means over recordings with their 95 % interval."""
    rows = []
    for group in dict.fromkeys([*groups, ALL]) if len(set(groups)) > 1 else dict.fromkeys(groups):
        for coder, values in results.items():
            own = [row for row, g in zip(values, groups, strict=True) if group in (g, ALL)]
            rows.append((group, coder.system, coder.setting, len(own),
                         *(mean_interval(row[name] for row in own) for name in ("kbit/s", *measures))))
    return Table(("group", "coder", "setting", "recordings", "kbit/s", *measures), rows)


def drawn(table: Table, measures: tuple[str, str]) -> Figure:
    """Two measures over kbit/s, over all recordings, a line for each coder."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained", facecolor="white")
    last = table.rows[-1][0]  # all recordings, or the one group there is
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == last]
    for axes, measure in zip(figure.subplots(1, 2), measures, strict=True):
        for system in dict.fromkeys(row["coder"] for row in rows):
            own = [row for row in rows if row["coder"] == system]
            at, values = ([row[name] for row in own] for name in ("kbit/s", measure))
            axes.errorbar([i.mean for i in at], [i.mean for i in values],  # type: ignore[union-attr]
                          [i.half_width for i in values], label=str(system),  # type: ignore[union-attr]
                          color=COLOURS.get(str(system), OURS), linewidth=2 if system not in COLOURS else 1.3,
                          marker="o", markersize=4, elinewidth=0.8)
        axes.set_xscale("log")
        ticks = [0.5, 1, 2, 3, 6, 12, 24]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("kbit/s")
        axes.set_title(measure, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.axes[0].legend(frameon=False, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="[NAME=]INPUT")
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--music", action="store_true", help="compare at 24 kHz, by measures of music")
    parser.add_argument("--kbps", type=float, nargs="+", help="of the model's rates only these (default: all)")
    parser.add_argument("--beam", type=int, default=BEAM, help="how widely the model's codes are searched for")
    parser.add_argument("--limit", type=int, default=25, help="recordings of a group, 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    parser.add_argument("--picture", type=Path, help="of the curve, .png or .svg")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    rate = MUSIC if args.music else SPEECH
    coders = [c for c in ours(args.model, rate, args.beam) if not args.kbps or float(c.setting.split()[0]) in args.kbps]
    coders += peers(rate)
    chosen = list(clips(args.inputs, args.limit, args.seed, rate))
    results: dict[Coder, list[Row]] = {coder: [] for coder in coders}
    kept, left_out, seconds = [], [], 0.0
    for clip in tqdm(chosen, unit="recording", disable=None):
        try:
            wave = clip.load()
            if args.music:
                wave = wave[max(0, len(wave) - MIDDLE * rate) // 2:][:MIDDLE * rate]
            rows = [measured(coder, wave, rate) for coder in coders]
        except AudioError as error:
            left_out.append(f"{clip.name}: {error}")
            continue
        kept.append(clip)
        seconds += len(wave) / rate
        for coder, row in zip(coders, rows, strict=True):
            results[coder].append(row)
    if not kept:
        raise SystemExit(f"no recording could be judged: {'; '.join(left_out) or 'none of a held-out speaker'}")
    table = summary(results, [clip.group for clip in kept], list(MEASURES[rate]))
    print(table.text())
    print(f"\n{len(kept)} recordings, {seconds / 60:.1f} minutes" + "".join(f"\nleft out: {x}" for x in left_out))
    if args.output:
        values = {"model": args.model, "minutes": seconds / 60, "left_out": left_out, "rows": json.loads(table.json()),
                  "recordings": [{"group": clip.group, "name": clip.name} |
                                 {f"{c.system} {c.setting}": results[c][i] for c in coders}
                                 for i, clip in enumerate(kept)]}
        with atomic_file(args.output) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")
        print(f"All of it is in {args.output}.")
    if args.picture:
        with atomic_file(args.picture) as temporary:
            drawn(table, ("log-mel, dB", "chroma") if args.music else ("PESQ-wb", "STOI")).savefig(temporary, dpi=150)
        print(f"The curve is in {args.picture}.")


if __name__ == "__main__":
    main()
