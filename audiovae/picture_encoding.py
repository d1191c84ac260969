"""Encoding of many pictures, as corpus_encoding does for recordings: what is there already is passed over."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from audiovae.codes import CodeHeader
from audiovae.corpus_encoding import Done, Job, is_encoded
from audiovae.errors import AudiovaeError
from audiovae.picture_codec import PictureCodec, encode_picture, open_picture_codec


@dataclass(frozen=True)
class PictureSettings:
    """What decides the codes of a picture, besides itself.

    label : what the model is told of every picture; None where it is told nothing.
    levels : those to encode, of a model of several; None for all.
    overwrite : encode what is there already once more.
    """

    model: str
    label: str | None = None
    levels: tuple[int, ...] | None = None
    overwrite: bool = False

    def codec(self) -> PictureCodec:
        """The model, loaded once in each process."""
        return _codec(self.model, self.levels)

    def fit(self, header: CodeHeader) -> bool:
        """Whether codes are of this model, these levels and this label."""
        codec, held = self.codec(), tuple(zip(header.hops, header.num_codes, strict=True))
        return (held, header.fingerprint, header.label) == (codec.code_levels, codec.fingerprint, self.label)


@cache
def _codec(model: str, levels: tuple[int, ...] | None) -> PictureCodec:
    return open_picture_codec(model, levels)


def encode_pictures(settings: PictureSettings, jobs: Iterable[Job]) -> Iterator[Done]:
    """Encode pictures one by one; one that is bad does not stop the others.

    Code files that :func:`audiovae.corpus_encoding.is_encoded` are skipped, unless ``settings.overwrite``.
    """
    codec = settings.codec()
    for job in jobs:
        assert job.target is not None  # pictures have no shards
        try:
            there = is_encoded(job.path, job.target, settings)
            if not there:
                encode_picture(codec, job.path, job.target, settings.label)
            yield Done(job, skipped=there)
        except AudiovaeError as error:
            yield Done(job, failed=str(error))
