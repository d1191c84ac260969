"""A corpus of music: its tags, its channels, and how a folder of it becomes one."""

import json

from audiovae.audio.corpus import Corpus, Utterance


def test_tags_are_read_as_they_were_written_and_speech_has_none(tiny_corpus, tmp_path):
    corpus = Corpus.open(tiny_corpus)
    assert corpus.tags == {} and all(not u.tags for u in corpus.all)
    assert all("tags" not in json.loads(line) for line in (tiny_corpus / "manifest.jsonl").read_text().splitlines())
    told = Utterance("a", "Ada", "train", "a.wav", 0, 8, tags={"artist": ("Ada", "Bo"), "genre": ("Ambient",)})
    unseen = Utterance("b", "Cy", "test", "b.wav", 8, 8, tags={"artist": ("Cy",), "mood": ("calm",)})
    (tmp_path / "audio.i16").write_bytes(bytes(32))
    (tmp_path / "corpus.json").write_text(json.dumps({"version": 1, "sample_rate": 8, "samples": 16, "utterances": 2}))
    (tmp_path / "manifest.jsonl").write_text("".join(u.to_line(8) + "\n" for u in (told, unseen)))
    corpus = Corpus.open(tmp_path)
    assert corpus.all == (told, unseen)
    assert corpus.tags == {"artist": ("Ada", "Bo"), "genre": ("Ambient",)}, "only what can be learnt"
    assert hash(corpus.all[0]) == hash(told)
