"""Every layout is recognised and listed as it is downloaded, gaps and all; splits do not leak."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiovae.audio.layouts import Speaker, detect_layout, list_corpus, sentence_key
from audiovae.audio.splits import Spoken, assign, check_leaks, read_split_table
from audiovae.errors import CorpusError


def make(folder: Path, *names: str) -> Path:
    """Empty files by name; a listing looks at names only."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def put(folder: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def listed(folder: Path, *arguments: str) -> list[tuple[str, str, str | None]]:
    return [(s.id, s.speaker, s.text) for s in list_corpus(folder, *arguments).sources]


INFO_080 = (
    "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n"
    "315  18  M  American  New England\n"
)
INFO_092 = (
    "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F  English  Southern England\n"
    "p280  25  F  Unknown  France (mic2 files unavailable)\n"
    "p315  18  M  American  New England (Text and mic2 files unavailable)\ns5  22  M  British\n"
)


@pytest.mark.parametrize("below", ["", "VCTK-Corpus/"])
def test_vctk_080_as_downloaded(tmp_path, below):
    root = tmp_path / below
    make(root, "wav48/p225/p225_001.wav", "wav48/p225/p225_002.wav", "wav48/p315/p315_001.wav", "wav48/p225/._x.wav")
    put(root, {"txt/p225/p225_001.txt": "Please call Stella.\n", "txt/p225/p225_002.txt": "", "COPYING": "",
               "speaker-info.txt": INFO_080})  # fmt: skip
    assert detect_layout(tmp_path) == ("vctk-0.80", root)
    assert listed(tmp_path) == [
        ("p225_001", "p225", "Please call Stella."), ("p225_002", "p225", None), ("p315_001", "p315", None)
    ]  # fmt: skip
    assert list_corpus(tmp_path).speakers["p225"] == Speaker("F", 23, "English")


def test_vctk_092_as_downloaded(tmp_path):
    sound = "wav48_silence_trimmed"
    make(tmp_path, f"{sound}/p225/p225_001_mic1.flac", f"{sound}/p225/p225_001_mic2.flac",
         f"{sound}/p280/p280_001_mic1.flac", f"{sound}/p315/p315_001_mic1.flac", f"{sound}/s5/s5_001_mic1.flac",
         f"{sound}/s5/s5_001_mic2.flac", f"{sound}/p225/odd.flac")  # fmt: skip
    put(tmp_path, {f"{sound}/log.txt": "not audio", "txt/p225/p225_001.txt": "Please call Stella.",
                   "txt/p280/p280_001.txt": "Please call Stella.", "speaker-info.txt": INFO_092})  # fmt: skip
    listing = list_corpus(tmp_path)
    assert [(s.id, s.path.name) for s in listing.sources] == [
        (f"{who}_001", f"{who}_001_mic1.flac") for who in ("p225", "p280", "p315", "s5")
    ]
    assert [s.text is None for s in listing.sources] == [False, False, True, True]
    assert [reason for _, reason in listing.rejected] == ["name does not end in _mic1 or _mic2"]
    assert listing.speakers["s5"] == Speaker("M", 22, "British") and listing.speakers["p315"].accent == "American"
    second = list_corpus(tmp_path, mic="mic2")
    assert [s.path.name for s in second.sources] == ["p225_001_mic2.flac", "s5_001_mic2.flac"]
    assert {(path.parent.name, reason) for path, reason in second.rejected if "mic2 rec" in reason} == {
        ("p280", "no mic2 recording"), ("p315", "no mic2 recording")
    }  # fmt: skip


def test_librispeech_and_the_table_above_a_subset(tmp_path):
    make(tmp_path, "train-clean/103/1240/103-1240-0000.flac", "train-clean/103/1240/103-1240-0001.flac",
         "train-clean/1034/5/1034-5-0000.flac")  # fmt: skip
    put(tmp_path, {"train-clean/103/1240/103-1240.trans.txt": "103-1240-0000 CHAPTER ONE\n103-1240-0001 AND SO ON\n",
                   "SPEAKERS.TXT": ";ID |SEX| SUBSET\n103  | F | train-clean-100 | 30.03 | Karen\n"})  # fmt: skip
    listing = list_corpus(tmp_path / "train-clean")
    assert listing.layout == "libri" and listing.speakers == {"103": Speaker(gender="F")}
    assert listed(tmp_path / "train-clean") == [
        ("103-1240-0000", "103", "CHAPTER ONE"), ("103-1240-0001", "103", "AND SO ON"), ("1034-5-0000", "1034", None)
    ]  # fmt: skip
    assert listed(tmp_path) == listed(tmp_path / "train-clean"), "a folder of several subsets is one too"


def test_libritts(tmp_path):
    make(tmp_path, "dev/84/121123/84_121123_000007_000001.wav")
    put(tmp_path, {"dev/84/121123/84_121123_000007_000001.normalized.txt": "Maximilien.",
                   "dev/84/121123/84_121123_000007_000001.original.txt": "MAXIMILIEN!",
                   "speakers.tsv": "READER\tGENDER\tSUBSET\tNAME\n84\tF\tdev-clean\tChristie\n"})  # fmt: skip
    assert listed(tmp_path / "dev") == [("84_121123_000007_000001", "84", "Maximilien.")]
    assert list_corpus(tmp_path / "dev").speakers["84"].gender == "F"


def test_a_folder_a_speaker_and_a_flat_one(tmp_path):
    make(tmp_path / "s", "anna/1.wav", "anna/deep/2.MP3", "ben/1.ogg", "ben/cover.jpg")
    put(tmp_path / "s", {"anna/1.txt": "Hello,\n there."})
    assert listed(tmp_path / "s") == [("anna/1", "anna", "Hello, there."), ("anna/deep/2", "anna", None),
                                      ("ben/1", "ben", None)]  # fmt: skip
    make(tmp_path / "songs", "1.wav", "2.flac")
    assert listed(tmp_path / "songs") == [("1", "songs", None), ("2", "songs", None)]
    assert [row[1] for row in listed(tmp_path / "s", "flat")] == ["s", "s", "s"], "the layout can be said"


def test_folders_that_are_no_corpus(tmp_path):
    (tmp_path / "empty").mkdir()
    make(tmp_path / "mixed", "1.wav", "anna/1.wav")
    for folder, says in {"none": "missing", "empty": "holds no recording", "mixed": "say the layout",
                         "mixed/1.wav": "a file"}.items():  # fmt: skip
        with pytest.raises(CorpusError, match=says) as caught:
            list_corpus(tmp_path / folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError, match=r"in the layout vctk-0\.80"):
        list_corpus(tmp_path / "mixed", "vctk-0.80")
    assert [reason for _, reason in list_corpus(tmp_path / "mixed", "speakers").rejected] == [
        "lies beside the speakers' folders"
    ]


def test_sentences_are_the_same_whatever_their_marks():
    same = ["Don't call, Stella!", "DON’T CALL STELLA", "  dont   call stella"]
    assert len({sentence_key(text) for text in same}) == 1
    assert sentence_key("naïve café") == "naive cafe" and sentence_key("你好") == "你好"
    assert sentence_key("one two") != sentence_key("onetwo")


CORPUS = [Spoken(f"p{i}", f"sentence {j}") for i in range(12) for j in range(40)]
RULES = [(test, valid) for test in ("speaker", "sentence") for valid in ("speaker", "sentence")]


@pytest.mark.parametrize(("test_by", "valid_by"), RULES)
@given(seed=st.integers(0, 10_000))
def test_no_draw_leaks(test_by, valid_by, seed):
    splits = assign(CORPUS, test_by, valid_by, 0.2, 0.2, seed)
    assert set(splits) == {"train", "valid", "test"}
    check_leaks(CORPUS, splits, test_by, valid_by)

    def seen(part: str, what: str) -> set[str]:  # the same claim, without the code that makes it
        return {getattr(item, what) for item, split in zip(CORPUS, splits, strict=True) if split == part}

    assert not seen("test", test_by) & (seen("train", test_by) | seen("valid", test_by))
    assert not seen("valid", valid_by) & seen("train", valid_by)


@pytest.mark.parametrize(("test_by", "valid_by"), RULES)
def test_every_single_leak_is_found(test_by, valid_by):
    """Move one utterance of test or valid to train: the proof must fail, whichever it is."""
    splits = assign(CORPUS, test_by, valid_by, 0.2, 0.2, seed=0)
    for i in [i for i, split in enumerate(splits) if split != "train"]:
        leaking = splits.copy()
        leaking[i] = "train"
        with pytest.raises(CorpusError, match=f"leaks: {test_by if splits[i] == 'test' else valid_by} '"):
            check_leaks(CORPUS, leaking, test_by, valid_by)


def test_files_added_later_move_nobody():
    before = dict(zip(CORPUS, assign(CORPUS, "speaker", "sentence", 0.2, 0.2, 0), strict=True))
    more = [*CORPUS, *(Spoken(f"q{i}", f"new {j}") for i in range(9) for j in range(30))]
    random.Random(0).shuffle(more)
    after = dict(zip(more, assign(more, "speaker", "sentence", 0.2, 0.2, 0), strict=True))
    assert all(after[item] == split for item, split in before.items())


def test_fractions_are_kept_and_zero_is_none():
    many = [Spoken("p", f"sentence {i}") for i in range(5000)]
    splits = assign(many, "sentence", "sentence", 0.1, 0.2, seed=1)
    assert abs(splits.count("test") / 5000 - 0.1) < 0.015 and abs(splits.count("valid") / 4500 - 0.2) < 0.02
    assert set(assign(many, "sentence", "sentence", 0, 0, seed=1)) == {"train"}
    assert assign(many[:2], "sentence", "sentence", 0.01, 0, seed=0).count("test") == 1, "at least one"
    assert assign(CORPUS, "sentence", "speaker", 0.2, 0.2, 0) != assign(CORPUS, "sentence", "speaker", 0.2, 0.2, 1)


def test_splits_that_cannot_be():
    one = [Spoken("anna", f"sentence {i}") for i in range(10)]
    with pytest.raises(CorpusError, match="test part by speaker would take all 1 speakers: split by sentence"):
        assign(one, "speaker", "sentence", 0.1, 0.1, 0)
    with pytest.raises(CorpusError, match="valid part by speaker would take all"):
        assign(one, "sentence", "speaker", 0.1, 0.1, 0)


def test_the_given_split_is_honoured(tmp_path):
    table = {f"p{i}": "test" if i % 2 else "train" for i in range(12)}
    path = put(tmp_path, {"split.txt": "".join(f"{k} {v}\n" for k, v in table.items()) + "\n"}) / "split.txt"
    assert read_split_table(path) == table
    splits = assign(CORPUS, "given", "sentence", 0.5, 0.2, 0, table)
    assert all((split == "test") == (table[item.speaker] == "test") for item, split in zip(CORPUS, splits, strict=True))
    check_leaks(CORPUS, splits, "given", "sentence")
    table["p0"] = "valid"
    splits = assign(CORPUS, "given", "sentence", 0.5, 0.2, 0, table)
    assert splits == [table[item.speaker] for item in CORPUS], "valid speakers that are given are taken"
    with pytest.raises(CorpusError, match="lacks 1 speakers, such as 'p3'"):
        assign(CORPUS, "given", "sentence", 0, 0, 0, {k: v for k, v in table.items() if k != "p3"})


def test_bad_split_tables(tmp_path):
    with pytest.raises(CorpusError, match="cannot be read"):
        read_split_table(tmp_path / "split.txt")
    for line in ("p1", "p1 trian", "p1 train test"):
        put(tmp_path, {"split.txt": f"p0 dev\n{line}\n"})
        with pytest.raises(CorpusError, match=f"line 2: wanted SPEAKER train, valid or test, got '{line}'"):
            read_split_table(tmp_path / "split.txt")
