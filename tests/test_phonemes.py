"""The phoneme recipe on a corpus made on the spot, its maps against counting by hand."""

import importlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovae.audio.io import write_audio
from audiovae.bottlenecks import RVQConfig
from audiovae.checkpoint import save_model
from audiovae.models import AutoencoderConfig
from audiovae.shapes import DataSpec

RECIPE = Path(__file__).parent.parent / "recipes/phonemes"
TONES = {"AA": (300, 1500), "IY0": (700, 3500), "S": (5000, 6500)}
SPEAKERS = {"p1": "train", "p2": "train", "p3": "test", "p4": "test", "p5": "valid"}


@pytest.fixture(scope="module")
def recipe():
    """The recipe's modules by name, importable as its script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield {name: importlib.import_module(name) for name in ("maps", "phonemes", "sound")}


@pytest.fixture
def phonemes(recipe):
    return recipe["phonemes"]


@pytest.fixture
def maps(recipe):
    return recipe["maps"]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Five speakers say four words of two tones each, three times; one recording has no phones, one too many."""
    random = np.random.default_rng(0)
    for speaker in SPEAKERS:
        for take in range(4):
            pieces, words = [1e-3 * random.standard_normal(2400)], []
            for _ in range(4):
                pair = random.choice(list(TONES), 2, replace=False)
                words.append(f"{pair[0]}_B {pair[1]}_E")
                for phone in pair:
                    time = np.arange(1600) / 16000
                    tone = sum(np.sin(2 * np.pi * f * time) for f in TONES[phone])
                    pieces.append(0.2 * tone + 1e-2 * random.standard_normal(1600))
                pieces.append(1e-3 * random.standard_normal(1600))
            wave = torch.from_numpy(np.concatenate(pieces)).float()
            (tmp_path / "phones" / speaker).mkdir(parents=True, exist_ok=True)
            write_audio(tmp_path / f"wav48/{speaker}/{speaker}_{take}.wav", wave, 16000)
            text = " ".join(words * 50) if (speaker, take) == ("p1", 3) else " ".join(words)
            if (speaker, take) != ("p2", 3):
                (tmp_path / f"phones/{speaker}/{speaker}_{take}.txt").write_text(text)
    (tmp_path / "split.txt").write_text("".join(f"{name} {part}\n" for name, part in SPEAKERS.items()))
    ages = "".join(f"{name} {30 if name < 'p4' else 7} F\n" for name in SPEAKERS)
    (tmp_path / "speaker-info.txt").write_text("ID AGE GENDER\n" + ages)
    return tmp_path


def saved(folder: Path, labels: tuple[str, ...] = ()) -> Path:
    config = AutoencoderConfig(bottleneck=RVQConfig(num_quantizers=2, num_codes=16))
    folder.mkdir()
    save_model(folder, config.build(DataSpec(channels=1, dims=1, sample_rate=16000, labels=labels)), config)
    return folder


def test_from_recordings_to_a_page(phonemes, corpus, capsys):
    """Words, pauses, ages and parts are read; what cannot be aligned is left out; the alignment is kept."""
    out = corpus / "out"
    call = [str(corpus), "--models", str(saved(corpus / "model")), "-o", str(out)]
    assert phonemes.main(call) == 0
    printed = capsys.readouterr().out
    assert "14 recordings" in printed and "2 of 4 speakers unseen" in printed  # of 16 without valid
    page, rows = (out / "phonemes.html").read_text(), json.loads((out / "phonemes.json").read_text())
    assert "which code is which phoneme" in page and "IY0" not in page and ">IY<" in page
    assert {row["speakers"] for row in rows} == {"all", "adults"}
    bare = next(row for row in rows if row["codes"] == "none")
    assert float(bare["without silence, %"].split()[0]) > 90  # tones that are told at once, by what was aligned
    (kept,) = out.glob("alignment-*.npz")
    before = kept.stat().st_mtime_ns
    assert phonemes.main(call) == 0 and kept.stat().st_mtime_ns == before
    assert json.loads((out / "phonemes.json").read_text()) == rows
    (corpus / "phones/p1/p1_0.txt").write_text("AA_B S_E")
    assert phonemes.main(call) == 0 and len(list(out.glob("alignment-*.npz"))) == 2  # of other phones, anew


def test_models_that_know_a_test_speaker_are_refused(phonemes, corpus, capsys):
    model = saved(corpus / "model", labels=("p1", "p3"))
    assert phonemes.main([str(corpus), "--models", str(model), "-o", str(corpus / "out")]) == 2
    assert "trained on 1 of the 2 speakers to be tested, such as 'p3'" in capsys.readouterr().err


def test_a_corpus_without_phones_is_told(phonemes, corpus, capsys):
    (corpus / "split.txt").write_text("p1 train\n")
    assert phonemes.main([str(corpus), "-o", str(corpus / "out")]) == 2
    assert "no recording with phones of a test speaker" in capsys.readouterr().err


@pytest.fixture
def frames():
    """Codes (N, O, 2) whose phoneme depends on both codes and the neighbours, with noise; 6 codes, 4 phonemes."""
    random = np.random.default_rng(1)
    steps = random.integers(0, 6, (900, 7, 2))
    phoneme = (steps[:, 3, 0] + (steps[:, 3, 1] > 2) + (steps[:, 2, 0] > 3) + (random.random(900) < 0.2)) % 4
    return steps[:600], phoneme[:600], steps[600:], phoneme[600:]


def test_the_first_code_stands_for_its_majority(maps, frames):
    codes, phoneme, asked, _ = frames
    asked[0, 3, 0] = 6  # never met
    found = maps.of_first(codes, phoneme, asked, 4)
    for code, answer in zip(asked[:, 3, 0], found, strict=True):
        told = Counter(phoneme[codes[:, 3, 0] == code].tolist()) or Counter(phoneme.tolist())
        assert told[int(answer)] == max(told.values())


def test_a_pair_backs_off_to_its_first_code(maps, frames):
    codes, phoneme, asked, _ = frames
    rare = codes[:, 3, 1] == 5
    codes[rare, 3, 1] = 4
    found = maps.of_pair(codes, phoneme, asked, 4)
    alone = maps.of_first(codes, phoneme, asked, 4)
    never = asked[:, 3, 1] == 5
    assert never.any() and (found[never] == alone[never]).all()
    for (first, second), answer in zip(asked[~never, 3], found[~never], strict=True):
        its, pair = codes[:, 3, 0] == first, (codes[:, 3] == (first, second)).all(1)
        score = [np.sum(phoneme[pair] == p) + maps.FEW * np.mean(phoneme[its] == p) for p in range(4)]
        assert score[answer] == pytest.approx(max(score), abs=0.05)  # but for what smooths the backing


def test_neighbours_are_weighed_as_written(maps, frames):
    codes, phoneme, asked, _ = frames
    found = maps.of_neighbours(codes, phoneme, asked, 4)
    for row in range(40):
        scores = []
        for p in range(4):
            score = np.log(np.sum(phoneme == p) + 0.5)
            for place in range(7):
                its = codes[phoneme == p, place, 0]
                share = (np.sum(its == asked[row, place, 0]) + 0.5) / (len(its) + 0.5 * 6)
                score += (1 if place == 3 else maps.TRUST) * np.log(share)
            scores.append(score)
        assert scores[found[row]] == pytest.approx(max(scores), abs=1e-4)


def test_neighbours_tell_what_a_blurred_code_does_not(maps):
    """Phonemes last ten steps, half the codes are drawn blindly: those before and after help."""
    random = np.random.default_rng(2)
    phoneme = random.integers(0, 4, 400).repeat(10)
    codes = np.where(random.random(4000) < 0.5, phoneme, random.integers(0, 4, 4000))
    context = np.stack([np.roll(codes, -offset) for offset in range(-3, 4)], 1)[..., None]
    parts = context[:3000], phoneme[:3000], context[3000:], 4
    alone, together = ((reader(*parts) == phoneme[3000:]).mean() for reader in
                       (maps.of_first, maps.of_neighbours))
    assert together > alone + 0.1


def test_phones_lose_stress_and_place(phonemes):
    assert [phonemes.read_phone(word) for word in ("IH0_B", "AY1_S", "NG_E", "zh", "EH2")] == [
        ("IH", False), ("AY", True), ("NG", True), ("ZH", False), ("EH", False)]


def test_accuracy_is_a_mean_over_speakers(phonemes):
    frames = phonemes.Frames(np.empty((4, 0, 0)), np.array([1, 1, 1, 2]), np.array(["a", "a", "a", "b"]))
    found = phonemes.accuracy(np.array([1, 0, 1, 2]), frames)
    assert found.mean == pytest.approx((100 * 2 / 3 + 100) / 2) and found.count == 2


def test_the_ceiling_learns_what_is_in_the_sound_and_no_more(recipe):
    dice = np.random.default_rng(0)
    told = dice.integers(0, 3, 4000)
    sound = dice.standard_normal((4000, 3, 2)) + 4 * np.eye(3)[told][:, :, None]
    split, of_sound = 3000, recipe["sound"].of_sound
    train, test = sound[:split].astype(np.float16), sound[split:].astype(np.float16)
    assert (of_sound(train, told[:split], test, 3) == told[split:]).mean() > 0.98
    lots = dice.permutation(told)  # phonemes that the sound does not tell
    assert (of_sound(train, lots[:split], test, 3) == lots[split:]).mean() < 0.45
