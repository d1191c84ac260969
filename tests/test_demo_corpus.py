"""The demo corpus is the same at every run, and its voices can be told apart."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovae.audio.layouts import list_corpus

pytest.importorskip("espeakng_loader")
SCRIPT = Path(__file__).parent.parent / "data" / "demo_corpus.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "a"
    done = run(out, "--sentences", 12)
    assert done.returncode == 0 and "192 sentences in 16 voices" in done.stdout and done.stderr == ""
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_two_runs_give_the_same_bytes(corpus):
    run(corpus.parent / "b", "--sentences", 12)
    assert files(corpus) == files(corpus.parent / "b")


def test_it_is_vctk_080(corpus):
    listing = list_corpus(corpus)
    assert listing.layout == "vctk-0.80" and len(listing.sources) == 192 and not listing.rejected
    assert listing.sources[0].id == "p801_001" and listing.sources[0].text is not None
    assert len({source.speaker for source in listing.sources}) == len(listing.speakers) == 16
    assert (listing.speakers["p802"].gender, listing.speakers["p802"].accent) == ("F", "American")
    assert len({source.sentence for source in listing.sources}) == 12
    assert soundfile.info(listing.sources[0].path).samplerate == 22_050


def mean_log_spectrum(path: Path) -> np.ndarray:
    """Mean over time of 40 log energies, in bands equally wide on the mel scale."""
    x, rate = soundfile.read(path)
    frames = np.lib.stride_tricks.sliding_window_view(x, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(512, 1 / rate) / 700)
    band = np.minimum((mel / mel[-1] * 40).astype(int), 39)
    energy = np.stack([power[:, band == b].sum(axis=1) for b in range(40)], axis=1)
    loud = energy.sum(axis=1) > 1e-3 * energy.sum(axis=1).max()
    return np.log(energy[loud] + 1e-6).mean(axis=0)


def test_voices_are_told_apart_on_unseen_sentences(corpus):
    """The nearest mean spectrum of six sentences names the voice of six others nine times in ten."""
    voices = sorted(path.name for path in (corpus / "wav48").iterdir())
    spectra = np.array([[mean_log_spectrum(f) for f in sorted((corpus / "wav48" / v).iterdir())] for v in voices])
    centroids = spectra[:, :6].mean(axis=1)
    distance = ((spectra[:, 6:, None] - centroids) ** 2).sum(axis=-1)
    right = distance.argmin(axis=-1) == np.arange(len(voices))[:, None]
    assert right.mean() >= 0.9


def test_bad_calls_are_one_line(corpus, tmp_path):
    again = run(corpus)
    assert again.returncode == 2
    assert again.stderr == f"demo_corpus: {corpus} is there already: remove it or name another folder.\n"
    for count in (0, 61):
        done = run(tmp_path / "x", "--sentences", count)
        assert done.returncode == 2 and "wanted 1 to 60" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_voices_are_refused():
    """eSpeak itself would give the plain voice for an unknown variant."""
    script = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
from demo_corpus import SENTENCES, Synthesizer, CorpusError
synthesizer = Synthesizer()
for voice in ("en-us+nobody", "xx-yy"):
    try: synthesizer.speak(voice, "hello")
    except CorpusError as error: print(error)
print(len(SENTENCES), len(set(SENTENCES)))
"""
    lines = subprocess.check_output([sys.executable, "-c", script], text=True).splitlines()
    assert "no variant 'nobody'" in lines[0] and "refuses the voice 'xx-yy'" in lines[1] and lines[2] == "60 60"
