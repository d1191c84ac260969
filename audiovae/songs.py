"""Songs on disk: the audio, its codes, what was asked, a page to listen; and what is kept of one that was stopped."""

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.io import AudioWriter, read_audio, stream_channels
from audiovae.audio.waveform import mono
from audiovae.codes import Codes
from audiovae.errors import CheckpointError, ConfigError, OutputError
from audiovae.files import atomic_file
from audiovae.generate import PriorFile, Request, Steps, to_json
from audiovae.level_codec import AnyCodec
from audiovae.metrics import self_similarity
from audiovae.models import Multires
from audiovae.report import Report, Table, draw_self_similarity, draw_spectrograms


@dataclass(frozen=True)
class Place:
    """Where songs go: FOLDER/NAME.wav and so on, NAME-1, NAME-2 ... of several."""

    folder: Path
    name: str
    suffix: str
    count: int

    @classmethod
    def of(cls, output: Path, count: int, suffix: str = ".wav") -> "Place":
        """``output`` is a file .wav or .flac, or a folder.

        >>> Place.of(Path("new/song.flac"), 2).audio(1)
        PosixPath('new/song-2.flac')
        """
        if output.suffix in (".wav", ".flac"):
            return cls(output.parent, output.stem, output.suffix, count)
        if output.suffix:
            raise ConfigError(f"songs are written as .wav or .flac, not as '{output.suffix}': {output}.")
        return cls(output, "song", suffix, count)

    def file(self, song: int, ending: str) -> Path:
        return self.folder / f"{self.name}{f'-{song + 1}' if self.count > 1 else ''}{ending}"

    def audio(self, song: int) -> Path:
        return self.file(song, self.suffix)

    @property
    def page(self) -> Path:
        return self.folder / f"{self.name}.html"

    @property
    def kept(self) -> Path:
        """What is drawn so far, until the songs are whole."""
        return self.folder / f"{self.name}.partial.npz"


def keep(place: Place, asked: str, songs: dict[int, Steps]) -> None:
    """Write what is drawn so far and what was asked, whole or not at all; OutputError where the system refuses."""
    with atomic_file(place.kept) as temporary, temporary.open("wb") as file:
        np.savez(file, asked=np.array(asked), **_named(songs))  # pyright: ignore[reportArgumentType]


def kept(place: Place, asked: str) -> dict[int, Steps]:
    """What :func:`keep` wrote; ConfigError where there is none, or other songs were asked for."""
    try:
        with np.load(place.kept, allow_pickle=False) as arrays:
            before = str(arrays["asked"][()])
            songs = {int(name.split("_")[1]): arrays[name].astype(np.int64) for name in arrays.files if "_" in name}
    except FileNotFoundError:
        raise ConfigError(f"--resume: no {place.kept}, so nothing to go on with: leave --resume out.") from None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{place.kept} is damaged ({' '.join(str(error).split())[:80]}): delete it and begin "
                          "anew.") from None
    if before != asked:
        was, now = json.loads(before), json.loads(asked)
        other = [name for name in now if was.get(name) != now[name]]
        raise ConfigError(f"--resume: {place.kept} was begun with another {' and '.join(other)}: ask for the same, or "
                          "delete it and begin anew.")
    return songs


def given_codes(codec: AnyCodec, source: Path, seconds: float | None = None) -> tuple[dict[int, Steps], int]:
    """A recording's codes (Q, L), or a code file's, by level, and the samples that they stand for.

    Of a recording they are of its last ``seconds``, in whole steps of the slowest level. Raises CodeFileError on codes
    of another model, ConfigError on a recording of less than such a step, and on seconds that are none.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigError(f"--prime-seconds wants a number above 0, got {seconds:g}.")
    hops = [level.hop for level in codec.model.code_levels]
    if source.suffix in (".codes", ".npz"):
        codes = Codes.load(source, codec.prior)
        codes.check_fingerprint(codec.fingerprint)
        if seconds is not None:
            raise ConfigError("--prime-seconds is of recordings: of a code file take a part by `audiovae decode`, or "
                              "leave it out.")
        return ({hops.index(hop): level for hop, level in zip(codes.hops, codes.levels, strict=True)},
                codes.num_samples)
    if codec.channels > 1:
        wave = torch.cat([*stream_channels(source, codec.channels, codec.sample_rate)], dim=1)
    else:
        wave, _ = read_audio(source, codec.sample_rate)
    if seconds is not None:
        wave = wave[:, -max(1, round(seconds * codec.sample_rate)):]
    steps = wave.shape[-1] // hops[-1]
    if not steps:
        raise ConfigError(f"{source}: {wave.shape[-1]} samples at {codec.sample_rate} Hz are less than one step of the "
                          f"slowest level ({hops[-1]}): give a longer prime.")
    codes = codec.encode(wave[..., : steps * hops[-1]], codec.sample_rate)
    return ({index: level[:, : steps * hops[-1] // hop]
             for index, (level, hop) in enumerate(zip(codes.levels, hops, strict=True))}, steps * hops[-1])


def codes_of(codec: AnyCodec, request: Request, songs: dict[int, Steps], song: int,
             levels: Sequence[int] | None = None) -> Codes:
    """One song as Codes of the levels that are there, or of ``levels``."""
    chosen = sorted(songs) if levels is None else sorted(levels)
    spec = [codec.model.code_levels[level] for level in chosen]
    return Codes(tuple(songs[level][song] for level in chosen), codec.sample_rate, request.samples,
                 tuple(level.hop for level in spec), tuple(level.num_codes for level in spec), codec.fingerprint,
                 channels=codec.channels)


def decodable(codec: AnyCodec, songs: dict[int, Steps]) -> list[int]:
    """The levels that can be listened to: every one of a multi-resolution model, else all together as level 0."""
    if isinstance(codec.model, Multires):
        return sorted(songs, reverse=True)
    return [0] if len(songs) == len(codec.model.code_levels) else []


def check_decodable(codec: AnyCodec, songs: dict[int, Steps]) -> None:
    """CheckpointError where songs of these levels could not be listened to."""
    if not decodable(codec, songs):
        raise CheckpointError(f"this model is decoded from all its {len(codec.model.code_levels)} levels, and there "
                              f"{'are priors' if len(songs) > 1 else 'is a prior'} for "
                              f"{', '.join(map(str, sorted(songs)))} only: name one for each.")


def decoded(codec: AnyCodec, request: Request, songs: dict[int, Steps], song: int, level: int) -> Tensor:
    """One song's waveform (T,) or (C, T), from ``level``."""
    if isinstance(codec.model, Multires):
        return codec.decode(codes_of(codec, request, songs, song, [level]), level=level)
    return codec.decode(codes_of(codec, request, songs, song))


def write_rough(codec: AnyCodec, request: Request, place: Place, songs: dict[int, Steps], level: int) -> list[Path]:
    """A first listen: every song decoded from ``level`` alone, to NAME.level-N.wav."""
    paths = []
    for song in range(request.count):
        paths.append(place.file(song, f".level-{level}.wav"))
        _write(paths[-1], decoded(codec, request, songs, song, level), codec, None)
    return paths


def write_songs(codec: AnyCodec, priors: Sequence[PriorFile], request: Request, place: Place,
                songs: dict[int, Steps]) -> list[Path]:
    """Audio, codes and a page; the finest level is the song, those above are players on the page."""
    asked, paths = to_json(request, priors), []
    page = Report("New music", lead=_told(request, codec))
    levels = decodable(codec, songs)
    for song in range(request.count):
        waves = {level: decoded(codec, request, songs, song, level) for level in levels}
        finest = waves[levels[-1]]
        _write(place.audio(song), finest, codec, asked)
        codes_of(codec, request, songs, song).save(place.file(song, ".codes"))
        paths.append(place.audio(song))
        page.section(place.audio(song).stem)
        for level, wave in waves.items():
            page.audio(f"level {level}" if len(waves) > 1 else "song", wave, codec.sample_rate)
        sound = {f"level {level}": mono(wave) for level, wave in waves.items()}
        page.figure("Spectrograms", draw_spectrograms(sound, codec.sample_rate))
        if finest.shape[-1] >= 2 * codec.sample_rate:
            page.figure("The song beside itself: bright where two moments share their harmony",
                        draw_self_similarity(self_similarity(mono(finest), codec.sample_rate),
                                             finest.shape[-1] / codec.sample_rate))
    page.section("What was asked")
    values = json.loads(asked)
    drawings = values.pop("drawings")
    rows = [(name, _shown(value)) for name, value in values.items() if value not in (None, [], {})]
    rows += [(f"level {level}", _shown(drawing)) for level, drawing in drawings.items()]
    page.table(Table(("setting", "value"), rows))
    page.write(place.page)
    place.kept.unlink(missing_ok=True)
    for song in range(request.count):
        for level in levels[:-1]:
            place.file(song, f".level-{level}.wav").unlink(missing_ok=True)
    return paths


def check_free(place: Place, resume: bool) -> None:
    """OutputError where songs are there already, or unfinished ones that ``--resume`` would go on with."""
    if place.kept.exists():
        if not resume:
            raise OutputError(f"{place.kept} holds unfinished songs: go on with --resume, or delete it.")
        return  # songs beside it were being written when it was stopped
    each = [place.file(song, ending) for song in range(place.count) for ending in (place.suffix, ".codes")]
    for path in (*each, place.page):
        if path.exists():
            raise OutputError(f"{path} is there already: remove it or name another with -o.")


def _write(path: Path, wave: Tensor, codec: AnyCodec, comment: str | None) -> None:
    with AudioWriter(path, codec.sample_rate, codec.channels, comment=comment) as writer:
        writer.write(wave / max(1.0, float(wave.abs().max())))


def _told(request: Request, codec: AnyCodec) -> str:
    about = ", ".join([*request.tags, *([request.label] if request.label else [])])
    return (f"{request.samples / codec.sample_rate:.1f} s{f', {about}' if about else ''}, seed {request.seed}: drawn "
            "code by code, the slowest level first.")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {its:g}" for name, its in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _named(songs: dict[int, Steps]) -> dict[str, Steps]:
    return {f"level_{level}": codes for level, codes in songs.items()}
