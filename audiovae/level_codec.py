"""Codecs of models with several levels of codes: recordings in, codes of every level out, and back.

A multi-resolution model is a codec for each of its levels, which read the same pieces and decode alone. A hierarchy
is one: all its levels together make the codes of a step of the top, so blocks are cut in such steps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovae.audio.resample import resample
from audiovae.audio.waveform import channelled
from audiovae.blocks import blockwise, halo, padded
from audiovae.bottlenecks.search import checked_beam
from audiovae.checkpoint import fingerprint, load_model
from audiovae.closest_voice import closest_voice
from audiovae.codec import BEAM, BLOCK, Codec
from audiovae.codes import CodeHeader, Codes
from audiovae.codes.prior import find_prior
from audiovae.errors import AudioError, CheckpointError, ConfigError, LabelError, nearest
from audiovae.models import Hierarchical, Model, Multires
from audiovae.nn.bfloat16 import Precision
from audiovae.shapes import CodeLevel, Condition

Blocks = Iterable[tuple[np.ndarray, ...]]


class LevelCodec:
    """What codecs of several levels have in common; :func:`level_codec` chooses between the two.

    ``block`` is how many steps of the slowest level are worked on at once. Codes carry the fingerprint of the whole
    model, whatever levels they hold.
    """

    prior = None  # one for each level is trained and kept by itself
    block: int

    def __init__(self, model: Multires | Hierarchical, levels: Sequence[int]):
        if model.data.sample_rate is None or model.data.dims != 1:
            raise CheckpointError(f"LevelCodec wants a model of waveforms, this one is of {model.data}.")
        self.model = model.eval().requires_grad_(False)
        self.levels = tuple(levels)
        self.sample_rate: int = model.data.sample_rate
        self.channels = model.data.channels
        self.hops = tuple(level.hop for level in model.code_levels)
        self.hop = self.hops[-1]
        self.speakers: tuple[str, ...] = ()
        self.fingerprint = fingerprint(model)

    @property
    def half_a_second(self) -> int:
        """Steps of the slowest level in it: the ``block`` for streams."""
        return max(1, round(0.5 * self.sample_rate / self.hop))

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        """Hop and codebooks of each level that it writes, the fastest first."""
        return tuple(self.model.code_levels[level] for level in self.levels)

    def header(self, speaker: str | None = None) -> CodeHeader:
        """All that decoding this codec's codes needs to know besides their length."""
        return CodeHeader(self.sample_rate, tuple(level.hop for level in self.code_levels),
                          tuple(level.num_codes for level in self.code_levels), self.fingerprint, self.check(speaker),
                          self.channels)

    def check(self, speaker: str | None) -> str | None:
        """The name itself if this model knows it; LabelError with the nearest names if not."""
        if speaker is None or speaker in self.speakers:
            return speaker
        told = f"; {nearest(speaker, self.speakers)}." if self.speakers else ": its decoder is not told who speaks."
        raise LabelError(f"no speaker '{speaker}' in this model{told}")

    def condition(self, speaker: str | None) -> Condition:
        """What the decoder is told for a speaker's name; None is "unknown"."""
        name = self.check(speaker)
        return Condition(torch.tensor([-1 if name is None else self.speakers.index(name)]))

    def encode(self, waveform: Tensor | np.ndarray, sample_rate: int, speaker: str | None = None) -> Codes:
        """A waveform (T,) or (C, T), resampled as needed, to Codes of the codec's levels; see :meth:`Codec.encode`."""
        wave = channelled(waveform, self.channels)
        if not torch.isfinite(wave).all():
            raise AudioError("LevelCodec.encode: the waveform has NaN or infinite samples.")
        wave = resample(wave, sample_rate, self.sample_rate)
        if wave.shape[-1] < self.hop:
            raise AudioError(f"LevelCodec.encode: {wave.shape[-1]} samples at {self.sample_rate} Hz are shorter than "
                             f"one step of the slowest level ({self.hop}).")
        if speaker is None and self.speakers:
            speaker = self.closest_speaker(wave)
        return self.codes(self.encode_blocks([wave]), lambda: wave.shape[-1], speaker)

    def codes(self, blocks: Blocks, num_samples: Callable[[], int], speaker: str | None = None) -> Codes:
        """Blocks of codes, (Q, L) of every level, as one; ``num_samples`` tells the length once the last has come."""
        levels = tuple(np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
        return Codes(levels, num_samples=num_samples(), **vars(self.header(speaker)))

    def decode(self, codes: Codes, speaker: str | None = None, start: float = 0.0, stop: float | None = None,
               level: int | None = None) -> Tensor:
        """Codes to the waveform (T,), or (C, T); ``start`` and ``stop`` as of :meth:`Codec.decode`.

        ``level`` is the one to decode from, of a multi-resolution model: None for the fastest that is there.
        """
        codes.check_fingerprint(self.fingerprint)
        first, last = codes.samples(start, stop)
        pieces = self.decode_blocks([codes.levels], lambda: codes.num_samples, speaker or codes.label, codes.hops,
                                    level)
        done, kept = 0, []
        for piece in pieces:
            kept.append(piece[..., max(0, first - done):max(0, last - done)])
            done += piece.shape[-1]
            if done >= last:
                break
        return torch.cat(kept, dim=-1)

    def closest_speaker(self, wave: Tensor, seconds: float = 4.0) -> str:
        """See :meth:`Codec.closest_speaker`."""
        raise NotImplementedError

    def encode_blocks(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, ...]]:
        """Pieces (n,), or (C, n), of a waveform at ``sample_rate`` to blocks of codes, (Q, L) of each of its levels."""
        raise NotImplementedError

    def decode_blocks(self, blocks: Blocks, num_samples: Callable[[], int], speaker: str | None = None,
                      hops: tuple[int, ...] = (), level: int | None = None) -> Iterator[Tensor]:
        """Blocks of codes of levels of ``hops`` (none told: the codec's own) to pieces of the waveform.

        Raises ConfigError where the codes lack what is to be decoded from.
        """
        raise NotImplementedError

    def _numbers(self, hops: tuple[int, ...]) -> list[int]:
        """Which levels of the model those of ``hops`` are."""
        return [self.hops.index(hop) for hop in hops] if hops else list(self.levels)


class MultiresCodec(LevelCodec):
    """A multi-resolution model: each level a :class:`Codec`, any of which decodes alone.

    >>> from audiovae.models import LevelConfig, MultiresConfig
    >>> from audiovae.shapes import DataSpec
    >>> rows = tuple(LevelConfig(strides=(2,) * n, width=4, depth=1) for n in (2, 4))
    >>> codec = MultiresCodec(MultiresConfig(levels=rows).build(DataSpec(channels=1, dims=1, sample_rate=8000)))
    >>> codes = codec.encode(torch.randn(8001), sample_rate=8000)
    >>> [level.shape for level in codes.levels], codec.decode(codes, level=1).shape
    ([(1, 2001), (1, 501)], torch.Size([8001]))
    """

    model: Multires

    def __init__(self, model: Multires, levels: Sequence[int] | None = None, beam: int = BEAM,
                 precision: Precision = "no"):
        super().__init__(model, range(len(model.levels)) if levels is None else levels)
        self.parts = [Codec(level, beam=beam, precision=precision) for level in model.each]
        for part in self.parts:
            part.fingerprint = self.fingerprint
            part.block = max(BLOCK, *(3 * sum(sides) for sides in part._halos))  # long dilations: halos cost a third
        self.speakers = self.parts[self.levels[0]].speakers

    @property
    def block(self) -> int:  # type: ignore[override]
        return max(1, self.parts[-1].block)

    @block.setter
    def block(self, steps: int) -> None:
        for part in self.parts:
            part.block = steps * self.hop // part.hop

    def at(self, level: int) -> Codec:
        """The codec of one level alone."""
        return self.parts[level]

    def closest_speaker(self, wave: Tensor, seconds: float = 4.0) -> str:
        return self.parts[self.levels[0]].closest_speaker(wave, seconds)

    def encode_blocks(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, ...]]:
        parts = [self.parts[level] for level in self.levels]
        streams = [part.encode_stream(its) for part, its in zip(parts, tee(pieces, len(parts)), strict=True)]
        nothing = [np.zeros((len(part.num_codes), 0), np.int64) for part in parts]
        done = dict.fromkeys(range(len(parts)), 0)
        while done:  # whoever is furthest behind goes on, so that few pieces are held for it
            now = min(done, key=done.__getitem__)
            block = next(streams[now], None)
            if block is None:
                del done[now]
                continue
            done[now] += block.shape[1] * parts[now].hop
            yield tuple(block if place == now else empty for place, empty in enumerate(nothing))

    def decode(self, codes: Codes, speaker: str | None = None, start: float = 0.0, stop: float | None = None,
               level: int | None = None) -> Tensor:
        codes.check_fingerprint(self.fingerprint)
        place, part = self._from(codes.hops, level)
        one = Codes((codes.levels[place],), num_samples=codes.num_samples, **vars(part.header(speaker or codes.label)))
        return part.decode(one, None, start, stop)

    def decode_blocks(self, blocks: Blocks, num_samples: Callable[[], int], speaker: str | None = None,
                      hops: tuple[int, ...] = (), level: int | None = None) -> Iterator[Tensor]:
        place, part = self._from(hops, level)
        return part.decode_stream((its[place] for its in blocks), num_samples, speaker)

    def _from(self, hops: tuple[int, ...], level: int | None) -> tuple[int, Codec]:
        """Where the level to decode from is in codes of ``hops``, and its codec."""
        there = self._numbers(hops)
        chosen = there[0] if level is None else level
        if chosen not in there:
            raise ConfigError(f"no level {chosen} in these codes, which hold {', '.join(map(str, there))}: choose one "
                              "of those, or encode with it.")
        return there.index(chosen), self.parts[chosen]


class HierarchyCodec(LevelCodec):
    """A hierarchy of waveforms: all levels are coded and decoded together, in steps of the top.

    >>> from audiovae.models import HierarchicalConfig, LevelConfig
    >>> from audiovae.shapes import DataSpec
    >>> rows = tuple(LevelConfig(strides=(2, 2), width=4, depth=1) for _ in range(2))
    >>> codec = HierarchyCodec(HierarchicalConfig(levels=rows).build(DataSpec(channels=1, dims=1, sample_rate=8000)))
    >>> codes = codec.encode(torch.randn(8001), sample_rate=8000)
    >>> [level.shape for level in codes.levels], codec.decode(codes).shape
    ([(1, 2004), (1, 501)], torch.Size([8001]))
    """

    model: Hierarchical

    def __init__(self, model: Hierarchical, levels: Sequence[int] | None = None, beam: int = BEAM):
        count, self.beam = len(model.hops), checked_beam(beam)
        if levels is not None and tuple(levels) != tuple(range(count)):
            raise ConfigError(f"a hierarchy is decoded from all its {count} levels: leave --levels at all.")
        super().__init__(model, range(count))
        self.block = BLOCK
        self.speakers = model.data.labels if model.embedding is not None else ()
        self.ratios = tuple(self.hop // hop for hop in self.hops)
        read, shown = model.fields
        self._encoder_halo = _widest(halo(field, self.hop) for field in read)
        left, right = _widest(halo(field, ratio) for field, ratio in zip(shown, self.ratios, strict=True))
        self._decoder_halo = left, max(right, 1)  # a step stays behind until the end is known, to be cropped

    def closest_speaker(self, wave: Tensor, seconds: float = 4.0) -> str:
        return closest_voice(wave.view(self.channels, -1), self.sample_rate, self.hop, self.speakers, seconds=seconds,
                             read=self.model.encode_levels, say=self.model.decode_levels)

    def encode_blocks(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, ...]]:
        def encode(x: Tensor) -> Tensor:
            return torch.cat([folded(codes, ratio) for codes, ratio in
                              zip(self.model.encode_levels(x, beam=self.beam), self.ratios, strict=True)], dim=1)

        waves = (piece.reshape(1, self.channels, -1) for piece in padded(pieces, self.channels, self.hop))
        for block in blockwise(waves, encode, self._encoder_halo, self.block, unit_in=self.hop, unit_out=1):
            yield tuple(codes[0].cpu().numpy() for codes in self._unfolded(block))

    def decode_blocks(self, blocks: Blocks, num_samples: Callable[[], int], speaker: str | None = None,
                      hops: tuple[int, ...] = (), level: int | None = None) -> Iterator[Tensor]:
        if self._numbers(hops) != list(self.levels) or level is not None:
            raise ConfigError(f"a hierarchy is decoded from all its {len(self.levels)} levels: leave --level out, and "
                              "encode all of them.")
        told, ended, done = self.condition(speaker), False, 0

        def rows() -> Iterator[Tensor]:
            nonlocal ended
            for levels in blocks:
                yield torch.cat([folded(torch.from_numpy(codes)[None], ratio)
                                 for codes, ratio in zip(levels, self.ratios, strict=True)], dim=1)
            ended = True

        def decode(folded_codes: Tensor) -> Tensor:
            return self.model.decode_levels(self._unfolded(folded_codes), told)

        for block in blockwise(rows(), decode, self._decoder_halo, self.block, unit_in=1, unit_out=self.hop):
            piece = block[0, 0].cpu() if self.channels == 1 else block[0].cpu()
            yield piece[..., :num_samples() - done] if ended else piece
            done += piece.shape[-1]

    def _unfolded(self, rows: Tensor) -> list[Tensor]:
        """The inverse of :func:`folded` for each level of the joined rows (1, R, n)."""
        sizes = [len(level.num_codes) * ratio for level, ratio in
                 zip(self.model.code_levels, self.ratios, strict=True)]
        return [part.unflatten(1, (-1, ratio)).transpose(2, 3).flatten(2)
                for part, ratio in zip(rows.split(sizes, dim=1), self.ratios, strict=True)]


def folded(codes: Tensor, ratio: int) -> Tensor:
    """Codes (B, Q, n * ratio) as rows a slower level's step: (B, Q * ratio, n).

    >>> folded(torch.arange(6)[None, None], ratio=2)
    tensor([[[0, 2, 4],
             [1, 3, 5]]])
    """
    return codes.unflatten(2, (-1, ratio)).transpose(2, 3).flatten(1, 2)


def _widest(halos: Iterable[tuple[int, int]]) -> tuple[int, int]:
    lefts, rights = zip(*halos, strict=True)
    return max(lefts), max(rights)


AnyCodec = Codec | LevelCodec


def codec_of(model: Model, levels: Sequence[int] | None = None, beam: int = BEAM,
             precision: Precision = "no") -> AnyCodec:
    """The codec that fits a model; ``levels`` are those to encode, None for all, all else is as of :class:`Codec`.

    Raises CheckpointError where the model has no codes of audio, ConfigError where it lacks a level, or the layers that
    a ``precision`` wants.
    """
    chosen = None if levels is None else chosen_levels(model, levels)
    if isinstance(model, Multires):
        return MultiresCodec(model, chosen, beam, precision)
    if isinstance(model, Hierarchical):
        if precision == "bf16":
            raise ConfigError("precision 'bf16' is for linear layers, and a hierarchy has none: leave it at 'no'.")
        return HierarchyCodec(model, chosen, beam)
    return Codec(model, beam=beam, precision=precision)


def open_codec(path: str | Path, kbps: float | None = None, prior: bool = True,
               levels: Sequence[int] | None = None, beam: int = BEAM, precision: Precision = "no") -> AnyCodec:
    """:meth:`Codec.from_pretrained` for models of any number of levels; ``levels`` and ``beam`` as of :func:`codec_of`.

    Raises ConfigError where ``kbps`` is asked of a model of several levels, whose rates are those of its levels, or
    ``precision`` "bf16" of one without linear layers.
    """
    model = load_model(path)
    if isinstance(model, Multires | Hierarchical):
        if kbps is not None:
            raise ConfigError("--kbps is of models of one level: choose the levels of this one by --levels.")
        return codec_of(model, levels, beam, precision)
    codec = Codec(model, kbps, find_prior(path) if prior else None, beam, precision)
    if levels is not None:
        chosen_levels(model, levels)
    return codec


def chosen_levels(model: Model, levels: Sequence[int]) -> list[int]:
    """The levels in order, each once; ConfigError unless the model has them."""
    count = len(model.code_levels)
    if not levels or any(not 0 <= level < count for level in levels):
        raise ConfigError(f"no levels {', '.join(map(str, levels))}: this model has levels 0 to {count - 1}.")
    return sorted(set(levels))
