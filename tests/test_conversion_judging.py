"""The judging of conversions from end to end, on made voices that differ in nothing but their pitch."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiovae.audio.example import example_corpus
from audiovae.audio.io import read_audio, write_audio
from audiovae.checkpoint import save_model
from audiovae.metrics import pitch_contour
from audiovae.models import AutoencoderConfig
from audiovae.models.example import voice_config, voice_model
from audiovae.shapes import DataSpec

RATE = 16000
PITCH = {"a1": 105.0, "b1": 210.0, "a2": 120.0, "b2": 190.0, "a3": 100.0, "b3": 230.0}  # Hz; a are men, b women
PART = {"1": "test", "2": "train", "3": "test"}  # 1 are sources, 2 seen targets, 3 unseen ones


@pytest.fixture(scope="module")
def recipe() -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "recipes/vctk_conversion"))
        names = ("trials", "calibrate", "baselines", "judge", "probe", "study", "ceiling")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def spoken(hertz: float, seconds: float, rng: np.random.Generator) -> torch.Tensor:
    """A made voice: harmonics of a wavering pitch under two formants, with pauses."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = hertz * np.exp(0.1 * np.sin(2 * np.pi * (1.3 * time + rng.random())))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) * (np.exp(-((k * hertz - 600) / 400) ** 2) + np.exp(-((k * hertz - 1800) / 500) ** 2)
                                    + 0.02) for k in range(1, int(3500 / hertz)))
    gate = np.clip(3 * np.sin(2 * np.pi * 2 * time) + 1.5, 0, 1)
    return torch.from_numpy(0.1 * gate * wave + 1e-4 * rng.standard_normal(len(time))).float()[None]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Sources have one recording; one of the targets is a child as well, and left out."""
    folder, rng = tmp_path_factory.mktemp("voices"), np.random.default_rng(0)
    for name, hertz in {**PITCH, "c2": 300.0}.items():
        for number in range(1 if name.endswith("1") else 10):
            write_audio(folder / "all" / name / f"{number}.wav", spoken(hertz, 3.0 if name.endswith("1") else 1.6, rng),
                        RATE)
    (folder / "split.txt").write_text("".join(f"{name} {PART[name[1]]}\n" for name in [*PITCH, "c2"]))
    (folder / "people.txt").write_text("ID AGE SEX\n" + "".join(
        f"{name} {9 if name == 'c2' else 30} {'M' if name < 'b' else 'F'}\n" for name in [*PITCH, "c2"]))
    return folder


@pytest.fixture(scope="module")
def converted(recipe, recordings) -> Path:
    """A list of trials, converted by all baselines."""
    out = recordings / "out"
    call = [str(recordings / "all"), "--split", str(recordings / "split.txt"), "--people",
            str(recordings / "people.txt"), "--sources", "*1", "--targets", "*2", "*3", "--pairs", "4", "-o", str(out)]
    assert recipe.trials.main(call) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe.baselines, "ROUNDS", 2)
        assert recipe.baselines.main([str(out)]) == 0
    return out


@pytest.fixture
def folder(converted, tmp_path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "out"))


def by_pitch(wave: np.ndarray) -> list[float]:
    """A made verifier: the voice's pitch as an angle."""
    contour = pitch_contour(wave, RATE)
    angle = np.log2(np.median(contour[contour > 0]) / 150) if contour.any() else 0.0
    return [float(np.cos(angle)), float(np.sin(angle))]


def test_trials_are_balanced_disjoint_and_the_same_again(recipe, converted, recordings):
    trials = recipe.trials.read_trials(converted)
    for condition, number in (("seen", "2"), ("unseen", "3")):
        here = [trial for trial in trials if trial.condition == condition]
        assert sorted((t.source_sex, t.target_sex) for t in here) == [("F", "F"), ("F", "M"), ("M", "F"), ("M", "M")]
        assert {t.target for t in here} == {"a" + number, "b" + number}, "and not the child"
    for trial in trials:
        assert len(trial.references) == 5 and len(trial.kept) == 5
        assert not set(trial.references) & set(trial.kept) and trial.source not in trial.source_kept
    assert recipe.trials.make(recipe.trials.Arguments(
        recordings / "all", recordings / "split.txt", (recordings / "people.txt",), ("*1",), ("*2", "*3"), 4,
        converted)) == trials


def test_conversions_are_judged_once_and_truly(recipe, folder, monkeypatch, capsys):
    """Pitch errors are those the made pitches tell; what is at its target's pitch sounds like the target."""
    monkeypatch.setitem(recipe.calibrate.JUDGES, "verifier", lambda: by_pitch)
    call = [str(folder), "--judges", "verifier", "recogniser", "pitch", "--worst", "2", "--systems", "copied", "world"]
    assert recipe.judge.main(call) == 0
    shown = capsys.readouterr().out
    assert "wants recordings whose texts are known" in shown and "WER" not in shown, "no texts, no recogniser"
    rows = json.loads((folder / "judged.json").read_text())
    assert len(rows) == 2 * 8 and not any(row["failed"] for row in rows)
    for row in rows:
        apart = 12 * abs(np.log2(PITCH[row["source_speaker"]] / PITCH[row["target"]]))
        if row["system"] == "copied":
            assert row["pitch error, st"] == pytest.approx(apart, abs=0.4) and row["melody kept"] > 0.9999
            assert row["to source"] > 0.99 and row["nearer to target, %"] == 0
        if row["system"] == "world":
            assert row["pitch error, st"] < 0.4 and row["melody kept"] > 0.8
            assert row["nearer to target, %"] == 100 and row["to target"] > 0.99
    page = (folder / "report.html").read_text()
    assert page.count("<audio") == 2 * 2 * 3 and "F to M" in page

    def deaf():
        raise AssertionError("heard again")

    for name in ("verifier", "pitch"):
        monkeypatch.setitem(recipe.calibrate.JUDGES, name, lambda: deaf)
    assert recipe.judge.main(call) == 0
    assert json.loads((folder / "judged.json").read_text()) == rows
    with (folder / "answers.jsonl").open("a") as file:
        file.write('["pitch  0')  # killed while it wrote
    assert recipe.judge.main(call) == 0
    first = f"{rows[0]['trial']}.wav"
    shutil.copy(folder / "copied" / first, folder / "world" / first)
    assert recipe.judge.main(call) == 0, "known by what it holds, wherever it lies"
    again = json.loads((folder / "judged.json").read_text())
    assert again[8]["pitch error, st"] == rows[0]["pitch error, st"] != rows[8]["pitch error, st"]


def test_a_judge_that_cannot_tell_voices_apart_is_not_used(recipe, folder, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    monkeypatch.setitem(recipe.calibrate.JUDGES, "verifier",
                        lambda: lambda wave: list(rng.standard_normal(8) / np.sqrt(8)))
    assert recipe.judge.main([str(folder), "--judges", "verifier"]) == 2
    out = capsys.readouterr()
    assert "equal error rate" in out.out and "no judge passed" in out.err
    assert not (folder / "judged.json").exists()


def test_opinions_and_words_count_only_from_judges_that_prove_themselves(recipe, folder, tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "prompts"
    write_audio(prompts / "x.wav", torch.randn(1, RATE) * 0.1, RATE)
    (prompts / "x.txt").write_text("one two three four")
    call = [str(folder), "--judges", "recogniser", "opinion", "pitch", "--spoken", str(prompts), "--systems", "copied"]
    answers = {"recogniser": lambda wave: "one two three", "opinion": lambda wave: float(len(wave))}
    for name, answer in answers.items():
        monkeypatch.setitem(recipe.calibrate.JUDGES, name, lambda answer=answer: answer)
    assert recipe.judge.main(call) == 0
    assert {"WER", "predicted MOS"}.isdisjoint(json.loads((folder / "judged.json").read_text())[0])
    (folder / "answers.jsonl").unlink()
    answers = {"recogniser": lambda wave: "one two three four",
               "opinion": lambda wave: float(np.mean(np.abs(np.diff(wave)) < 2e-3))}
    for name, answer in answers.items():
        monkeypatch.setitem(recipe.calibrate.JUDGES, name, lambda answer=answer: answer)
    assert recipe.judge.main(call) == 0
    row = json.loads((folder / "judged.json").read_text())[0]
    assert row["WER"] == 0 and row["predicted MOS"] > 0


def test_the_first_of_each_condition(recipe, converted):
    trials = recipe.trials.read_trials(converted)
    assert [t.name for t in recipe.judge.first(trials, 2)] == [trials[i].name for i in (0, 1, 4, 5)]
    assert recipe.judge.first(trials, None) == trials


def test_what_is_lacking_is_named(recipe, folder, tmp_path, capsys):
    lacking = sorted((folder / "world").iterdir())[0]
    lacking.unlink()
    assert recipe.judge.main([str(folder), "--judges", "pitch"]) == 0
    assert "not converted" in capsys.readouterr().out
    rows = [row for row in json.loads((folder / "judged.json").read_text()) if row["system"] == "world"]
    assert [row["trial"] for row in rows if row["failed"] == ["not converted"]] == [lacking.stem]
    assert sum("pitch error, st" in row for row in rows) == len(rows) - 1
    assert recipe.judge.main([str(folder), "--judges", "pitch", "--systems", "none"]) == 2
    assert "holds none of 8 conversions" in capsys.readouterr().err
    assert recipe.judge.main([str(tmp_path), "--judges", "pitch"]) == 2
    assert "trials.jsonl cannot be read" in capsys.readouterr().err
    assert recipe.baselines.main([str(folder), "--systems", "wolrd"]) == 2
    assert "wolrd" in capsys.readouterr().err


def test_a_source_that_cannot_be_read_is_listed_and_the_others_are_done(recipe, folder, capsys):
    lines = (folder / "trials.jsonl").read_text().splitlines(True)
    bad = recipe.trials.read_trials(folder)[0]
    missing = str(folder / "gone.wav")
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["source"] == str(bad.source):
            row["source"] = missing
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(folder / "copied")
    assert recipe.baselines.main([str(folder), "--systems", "copied"]) == 2
    error, made = capsys.readouterr().err, {path.stem for path in (folder / "copied").iterdir()}
    failing = {trial.name for trial in recipe.trials.read_trials(folder) if str(trial.source) == missing}
    assert failing and made == {trial.name for trial in recipe.trials.read_trials(folder)} - failing
    assert all(name in error for name in failing) and f"{len(failing)} of {len(rows)} files failed" in error


def test_a_model_converts_the_trials(recipe, converted, tmp_path):
    folder, model = tmp_path / "trials", tmp_path / "voice"
    folder.mkdir()
    model.mkdir()
    (folder / "trials.jsonl").write_text("".join((converted / "trials.jsonl").read_text().splitlines(True)[:2]))
    save_model(model, voice_model(), voice_config())
    assert recipe.baselines.main([str(folder), "--model", str(model), "--systems", "own", "zero-shot"]) == 0
    for system in ("voice-own", "voice-zero-shot"):
        for trial in recipe.trials.read_trials(folder):
            made, source = (read_audio(path, RATE)[0] for path in (folder / system / f"{trial.name}.wav", trial.source))
            assert made.shape == source.shape and bool(made.any())
    less = ["--passes", "2", "--kbps", "0.2", "--systems", "zero-shot"]
    assert recipe.baselines.main([str(folder), "--model", str(model), *less]) == 0
    assert len(list((folder / "voice-zero-shot-2-0.2kbps").glob("*.wav"))) == 2


def test_a_model_that_goes_by_names_says_the_trials_of_those_it_knows(recipe, converted, tmp_path, capsys):
    folder, run, config = tmp_path / "trials", tmp_path / "small", AutoencoderConfig(condition_dim=4)
    folder.mkdir()
    run.mkdir()
    shutil.copy(converted / "trials.jsonl", folder)
    torch.manual_seed(0)
    model = config.build(DataSpec(channels=1, dims=1, sample_rate=RATE, labels=("a2", "b2")))
    for weights in model.parameters():
        weights.data.add_(0.02 * torch.randn_like(weights))  # new, it does what it is told not yet
    save_model(run, model, config)
    assert recipe.baselines.main([str(folder), "--model", str(run)]) == 2
    assert "the model was not trained on a3" in capsys.readouterr().err
    trials = {trial.name: trial for trial in recipe.trials.read_trials(folder)}
    made = {path.stem: read_audio(path, RATE)[0] for path in (folder / "small-named").iterdir()}
    assert set(made) == {name for name, trial in trials.items() if trial.target in ("a2", "b2")}
    name, other = [name for name in made if trials[name].source == trials[next(iter(made))].source][:2]
    assert trials[name].target != trials[other].target and not torch.equal(made[name], made[other])
    save_model(run, AutoencoderConfig().build(DataSpec(channels=1, dims=1, sample_rate=RATE)), AutoencoderConfig())
    assert recipe.baselines.main([str(folder), "--model", str(run)]) == 2
    assert "wants a model that hears its speakers" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--kbps", "0.4"], ["--passes", "2"], ["--retrieval", "0.5"], ["--no-transport"]])
def test_what_a_system_cannot_do_is_refused(recipe, converted, words, capsys):
    assert recipe.baselines.main([str(converted), *words]) == 2
    assert "want a --model that hears its speakers" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_trials_are_refused(recipe, converted, count, capsys):
    assert recipe.baselines.main([str(converted), "--trials", count]) == 2
    assert recipe.judge.main([str(converted), "--trials", count]) == 2
    assert capsys.readouterr().err.count("one trial of each condition at least") == 2


def test_recordings_in_which_nobody_speaks_tell_nothing_of_a_voice(recipe, tmp_path):
    """Prompts of silence lie among those of some voices, with noise above that which counts as silent."""
    dice = np.random.default_rng(0)
    write_audio(tmp_path / "said.wav", spoken(120.0, 2.0, dice), RATE)
    write_audio(tmp_path / "silence.wav", torch.from_numpy(3e-3 * dice.standard_normal((1, 2 * RATE))).float(), RATE)
    found = recipe.trials.clear(recipe.trials.recordings_in(tmp_path))
    assert [info.path.name for info in found] == ["said.wav"]


def test_of_two_microphones_a_sentence_counts_once(recipe, tmp_path):
    """Or what is converted by would be what is judged by."""
    names = [f"p1_{n:03d}_mic{m}.flac" for n in range(3) for m in (1, 2)] + ["p1_007_mic2.flac", "p1_008.wav", "x.txt"]
    for name in names:
        (tmp_path / name).touch()
    found = [path.name for path in recipe.trials.recordings_in(tmp_path)]
    assert found == ["p1_000_mic1.flac", "p1_001_mic1.flac", "p1_002_mic1.flac", "p1_007_mic2.flac", "p1_008.wav"]


def test_targets_are_told_by_as_much_as_is_asked_for(recipe, converted, tmp_path, capsys):
    trial, told_by = recipe.trials.read_trials(converted)[0], recipe.baselines.told_by
    few, more = (told_by(trial, seconds) for seconds in (3.0, 6.0))
    assert few.references == more.references[:2] and len(more.references) == 4, "of 1.6 s each"
    assert not set(more.references) & set(trial.kept) and told_by(trial, 9.0) is None
    folder, run = tmp_path / "trials", tmp_path / "voice"
    folder.mkdir()
    run.mkdir()
    (folder / "trials.jsonl").write_text((converted / "trials.jsonl").read_text().splitlines(True)[0])
    save_model(run, voice_model(), voice_config())
    call = [str(folder), "--model", str(run), "--systems", "zero-shot", "--seconds"]
    assert recipe.baselines.main([*call, "3", "6"]) == 0
    waves = [read_audio(folder / f"voice-zero-shot-{n}s" / f"{trial.name}.wav", RATE)[0] for n in (3, 6)]
    assert not torch.equal(*waves)
    assert recipe.baselines.main([*call, "60"]) == 2
    assert "no target has 60 s" in capsys.readouterr().err
    assert recipe.baselines.main([*call, "-1"]) == 2
    assert recipe.baselines.main([str(folder), "--model", str(run), "--systems", "own", "--seconds", "3"]) == 2
    assert "no system own" in capsys.readouterr().err, "which hears no reference"
    Path(folder / "trials.jsonl").write_text((folder / "trials.jsonl").read_text().replace("/all/", "/gone/"))
    assert recipe.baselines.main([*call, "3"]) == 2
    assert "is gone" in capsys.readouterr().err


def test_the_ceiling_disguises_targets_and_judges_by_what_it_did_not_convert(recipe, converted, tmp_path, capsys):
    """A disguise moves the pitch to the source's; "another" is another target, whatever the order of the list."""
    assert recipe.ceiling.main([str(converted), "--trials", "3", "-o", str(tmp_path)]) == 0
    trials = {trial.name: trial for trial in recipe.trials.read_trials(tmp_path)}
    assert len(trials) == 2 * 3 * 3
    for trial in recipe.trials.read_trials(converted):
        for condition in ("own", "another", "disguised") if f"own-{trial.name}" in trials else ():
            made = trials[f"{condition}-{trial.name}"]
            assert (made.condition, made.target) == (condition, trial.target)
            assert made.kept == trial.kept[1::2] and made.references == trial.references
            assert (made.source_speaker != made.target) == (condition == "another")
            wave = read_audio(Path(made.source), RATE)[0][0].double().numpy()
            contour = pitch_contour(wave, RATE)
            wanted = PITCH[{"own": made.target, "another": made.source_speaker}.get(condition, trial.source_speaker)]
            assert abs(np.log2(np.median(contour[contour > 0]) / wanted)) < 0.1
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "trials.jsonl").write_text((converted / "trials.jsonl").read_text().splitlines(True)[0])
    assert recipe.ceiling.main([str(lone), "-o", str(lone / "out")]) == 0
    assert [trial.condition for trial in recipe.trials.read_trials(lone / "out")] == ["own", "disguised"]
    assert recipe.ceiling.main([str(tmp_path / "gone"), "-o", str(lone / "out")]) == 2
    assert "make it by trials.py" in capsys.readouterr().err


def test_the_study_trains_converts_and_judges_a_variant(recipe, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipe.calibrate.JUDGES, "verifier", lambda: by_pitch)
    monkeypatch.delitem(recipe.calibrate.JUDGES, "opinion")
    told = ["--data", str(example_corpus()), "--trials", str(folder), "--limit", "1", "--steps", "2",
            "-o", str(tmp_path)]
    assert recipe.study.main(["remedies", "--only", "voice.toml", *told]) == 0
    numbers = json.loads((tmp_path / "remedies/study.json").read_text())["voice.toml"]["0"]
    assert numbers["steps"] == 2 and {"own voice, to source", "seen, to target", "unseen, to target",
                                      "unseen, to source"} < numbers.keys()
    assert len(list((tmp_path / "remedies/voice-toml-0/converted-2").glob("*/*.wav"))) == 4
    for words, said in ((["models"], "none of the speakers that the trials"),
                        (["remedies", "--limit", "0"], "at least"),
                        (["remedies", "--trials", str(tmp_path)], "make it by trials.py")):
        assert recipe.study.main([words[0], *told, *words[1:]]) == 2
        assert said in capsys.readouterr().err, "before it trains"


def test_the_studies_variants_fit_their_recipes_and_differ(recipe):
    judged = recipe.study.Judged("remedies")
    for one in recipe.study.studies(lambda *_: {}).values():
        made = [sys.modules["studies"].settings(one, overrides, judged)(seed=3) for overrides in one.variants.values()]
        assert all(a != b for i, a in enumerate(made) for b in made[:i])


def test_the_probe_tells_speakers_by_what_differs_and_not_by_chance(recipe):
    dice, speakers = np.random.default_rng(0), np.repeat([f"p{n}" for n in range(10)], 20)
    noise = dice.standard_normal((200, 50))
    assert recipe.probe.told(noise, speakers).mean < 25
    noise[:, :10] += 10 * np.eye(10)[np.repeat(np.arange(10), 20)]
    assert recipe.probe.told(noise, speakers).mean > 95


def test_the_probe_of_a_model(recipe, tmp_path, capsys):
    save_model(tmp_path, voice_model(), voice_config())
    corpus = example_corpus()
    assert recipe.probe.main([str(corpus), "--models", str(tmp_path), "--part", "train"]) == 0
    said = capsys.readouterr().out
    assert "log-mel spectra" in said and said.count(str(tmp_path)) == 3 and "latents" in said
    assert "2 speakers, chance 50.0 %" in said and "is to be believed" in said
    assert recipe.probe.main([str(corpus), "--models", str(tmp_path), "--part", "test"]) == 2
    assert "0 test speakers have 8 recordings" in capsys.readouterr().err
