"""The main job from end to end on the embedded voices: python recipes/demo/demo.py [FOLDER]

Each step shows the command a user would type. What exists already is kept, so a second run takes seconds.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.corpus import Corpus, Utterance
from audiovae.audio.features import LogMel
from audiovae.audio.io import read_audio, write_audio
from audiovae.checkpoint import run_checkpoints
from audiovae.codec import Codec
from audiovae.codes import Codes
from audiovae.convert import convert
from audiovae.errors import AudiovaeError
from audiovae.evaluate import Clip, evaluate
from audiovae.report import Report, Table, draw_codes, draw_loss, draw_spectrograms, draw_usage

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "recipes"))
from steps import finished, run_command, say, state  # noqa: E402

SPEAKER, TARGETS = "p801", ("p803", "p807")  # a man's voice to a woman's and to a deeper man's
HEARD = "p802"  # a woman's


def main(folder: Path) -> int:
    voices, corpus, run, report = folder / "vctk", folder / "corpus", folder / "run", folder / "report.html"
    had = report.exists() and finished(run)

    say(1, f"Sixteen synthetic voices read sixty sentences each: {voices}", done=voices.exists())
    if not voices.exists():
        subprocess.run([sys.executable, ROOT / "data/demo_corpus.py", voices], check=True)

    say(2, f"The recordings become a training corpus; sentences kept for testing are in no other part: {corpus}",
        done=corpus.exists())
    if not corpus.exists():
        run_command("prepare", voices, "-o", corpus)

    say(3, f"A small VQ-VAE learns to code speech in 3 minutes; its decoder is told who speaks: {run}",
        done=finished(run))
    if not finished(run):
        settings = ["--data.corpus", corpus]
        if run_checkpoints(run):
            run_command("train", "--resume", run, *settings)
        else:
            run_command("train", ROOT / "recipes/demo/demo.toml", *settings, "-o", run)

    source = folder / "source.wav"
    opened = Corpus.open(corpus)
    utterance = next(u for u in opened.utterances("test") if u.speaker == SPEAKER)
    say(4, f"A sentence of voice {SPEAKER} that training never saw: {source}", done=source.exists())
    if not source.exists():
        write_audio(source, torch.from_numpy(opened.audio(utterance)), opened.sample_rate)

    say(5, "It is encoded to a code file, decoded again, and said in two other voices; then in one that is only heard, "
        "by the weights that come with audiovae.", done=had)
    reference = folder / f"{HEARD}.wav"
    outputs = [folder / "source.codes", folder / "reconstruction.wav", folder / f"source-to-{HEARD}.wav",
               *(folder / f"source-to-{target}.wav" for target in TARGETS)]
    if not had or not all(path.exists() for path in outputs):
        run_command("encode", source, "-o", outputs[0], "--model", run)
        run_command("decode", outputs[0], "-o", outputs[1], "--model", run)
        run_command("convert", source, "--to", *TARGETS, "-o", folder, "--model", run)
        theirs = [torch.from_numpy(opened.audio(u)) for u in opened.utterances("test") if u.speaker == HEARD]
        write_audio(reference, torch.cat(theirs), opened.sample_rate)
        run_command("convert", source, "--to", reference, "-o", outputs[2])

    say(6, f"What came out is measured on unseen sentences and shown: {report}", done=had)
    if not had:
        write_report(folder, opened, utterance)
    print(f"\nOpen {report.resolve()} in a browser: players, spectrograms, codes, measures.")
    return 0


def write_report(folder: Path, corpus: Corpus, utterance: Utterance) -> None:
    """The page: what was heard, what the codes look like, how training went, what was measured."""
    codec = Codec.from_pretrained(folder / "run")
    codes = Codes.load(folder / "source.codes")
    waves = {f"source, voice {SPEAKER}": folder / "source.wav",
             "decoded from its codes": folder / "reconstruction.wav",
             **{f"converted to voice {t}": folder / f"source-to-{t}.wav" for t in TARGETS},
             f"converted to voice {HEARD}, heard in its recordings": folder / f"source-to-{HEARD}.wav"}
    heard = {caption: read_audio(path)[0][0] for caption, path in waves.items()}
    same = {u.speaker: u for u in corpus.utterances("test") if u.text == utterance.text}

    page = Report("Speech in, codes, another voice out",
                  lead=f"A VQ-VAE of {sum(p.numel() for p in codec.model.parameters()) / 1e6:.1f} million parameters, "
                       f"trained for {state(folder / 'run')['minutes']:.1f} minutes on synthetic voices. They prove "
                       "that the pipeline runs; they say nothing of quality on real speech.")
    page.section("Listen")
    page.text(f"“{utterance.text}” The sentence was not in training.")
    for caption, wave in heard.items():
        page.audio(caption, wave, codec.sample_rate)
    for target in (*TARGETS, HEARD):
        page.audio(f"for comparison: voice {target} itself",
                   torch.from_numpy(corpus.audio(same[target])), corpus.sample_rate)
    page.figure("Source, reconstruction and conversions", draw_spectrograms(heard, codec.sample_rate))

    page.section("Codes")
    page.text(f"{codes.levels[0].shape[1]} steps of {codec.hop / codec.sample_rate * 1000:.0f} ms, "
              f"{' × '.join(map(str, codec.num_codes))} codes: {codes.nominal_kbps:.2f} kbit/s, in a file of "
              f"{(folder / 'source.codes').stat().st_size} bytes.")
    page.figure("The codes of the sentence",
                draw_codes(codes.levels[0], codec.num_codes, codec.hop / codec.sample_rate))

    page.section("Measures on unseen sentences")
    clips = (Clip(u.id, torch.from_numpy(corpus.audio(u)), corpus.sample_rate, u.speaker)
             for u in corpus.utterances("test"))
    result = evaluate(codec, clips)
    for table in (result.table(), result.codebooks(), result.costs(), conversion(codec, corpus)):
        print(f"\n{table.text()}")
        page.table(table)
    page.figure("Use of the codes, most frequent first", draw_usage(result.counts))

    page.section("Training")
    page.figure("Distance of log-mel spectra and use of the codes",
                draw_loss(folder / "run/log.jsonl", ["log_mel", "perplexity"]))
    page.write(folder / "report.html")


def conversion(codec: Codec, corpus: Corpus) -> Table:
    """Whose voice is it? By the nearest mean spectrum of a speaker's training sentences."""
    known = {s: np.mean([timbre(torch.from_numpy(corpus.audio(u)), corpus.sample_rate)
                         for u in corpus.utterances("train") if u.speaker == s][:20], axis=0) for s in corpus.speakers}
    nearest = lambda wave: min(  # noqa: E731
        known, key=lambda s: float(np.square(known[s] - timbre(wave, corpus.sample_rate)).sum()))
    rows = []
    for number, u in enumerate(corpus.utterances("test")):
        wave = torch.from_numpy(corpus.audio(u))
        target = corpus.speakers[(corpus.speakers.index(u.speaker) + 1 + number) % len(corpus.speakers)]
        if target != u.speaker:
            said = nearest(convert(codec, wave, corpus.sample_rate, target))
            rows.append((nearest(wave) == u.speaker, said == target, said == u.speaker))
    own, reached, stayed = np.mean(rows, axis=0)
    return Table((f"nearest voice of {len(known)}, {len(rows)} conversions", "share"), [
        ("the recording itself is taken for its speaker", f"{own:.0%}"),
        ("the conversion is taken for its target", f"{reached:.0%}"),
        ("the conversion is still taken for its source", f"{stayed:.0%}")])


def timbre(wave: Tensor, sample_rate: int) -> np.ndarray:
    """Mean log-mel spectrum (80,) of a recording's louder frames."""
    frames = LogMel(sample_rate, n_fft=1024, hop=256, num_mels=80)(wave[None, None])[0]
    level = frames.mean(0)
    return frames[:, level > level.max() - 1.15].mean(1).numpy()  # 1.15 is 20 dB


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
    except (AudiovaeError, subprocess.CalledProcessError) as error:
        sys.exit(f"demo: {error}")
