"""What a user of codes holds: recordings in, codes out, and back, in constant memory over any length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovae.audio.resample import resample
from audiovae.audio.waveform import channelled
from audiovae.batches import Together
from audiovae.blocks import blockwise, decoder_halo, encoder_halo, padded, part_halo, partwise, windows
from audiovae.bottlenecks.search import checked_beam
from audiovae.checkpoint import DEFAULT, fingerprint, load_model
from audiovae.closest_voice import closest_voice
from audiovae.codes import CodeHeader, CodePrior, Codes
from audiovae.codes.prior import find_prior
from audiovae.errors import AudioError, CheckpointError, ConfigError, LabelError, ShapeError, nearest
from audiovae.models import Autoencoder, ConditionEmbedding, Model
from audiovae.nn.bfloat16 import Precision, in_precision
from audiovae.nn.field import Field, Part, compose
from audiovae.rates import stages_within
from audiovae.shapes import CodeLevel, Condition

# Latent steps at once: enough that the halo costs little, few enough that activations stay in cache. Steps,
# not seconds, since both go by steps: this is 20 s at a hop of 320 samples and 4 s at 64, at 16 kHz.
BLOCK = 1000

Reader = Callable[[Tensor], Tensor] | None  # hidden rows (1, D, L) to codes (1, Q, L), or to latents

# Sums of codes kept in search of each step's: the error of speech-16k's falls by 7, 12 and 15 % with 2, 4 and 8 of
# them at 6 codes, by 13, 22 and 28 % at 12, and the time of the search grows as they do: the second is worth the most.
BEAM = 2


class Codec:
    """A trained model with a discrete bottleneck, for use on recordings of any length.

    Blocks are cut with the halo that the model's receptive field asks for, so chunked = whole; a batch gives each
    recording the very codes, and each code the very samples, that it would give alone. ``block`` is how many latent
    steps are worked on at once: 1, set on a codec that serves a live stream, gives every packet as soon as it can.
    A ``prior`` over its codes makes their files smaller, and nothing else. ``beam`` is how widely the codes of a
    residual quantizer are searched for, see :func:`~audiovae.bottlenecks.search.beam_search`: 1 takes each stage's
    nearest, which is fast; more take codes that are nearer together, of the same size and for the same decoder. With
    ``precision`` "bf16" the model's linear layers multiply in bfloat16, see
    :func:`~audiovae.nn.bfloat16.in_precision`: faster where the processor does, and some codes are others.

    >>> from audiovae.models import AutoencoderConfig
    >>> from audiovae.shapes import DataSpec
    >>> model = AutoencoderConfig().build(DataSpec(channels=1, dims=1, sample_rate=16000))
    >>> codec = Codec(model)
    >>> codes = codec.encode(torch.randn(16001), sample_rate=16000)
    >>> codes.levels[0].shape, codec.decode(codes).shape
    ((8, 51), torch.Size([16001]))
    """

    def __init__(self, model: Model, kbps: float | None = None, prior: CodePrior | None = None, beam: int = BEAM,
                 precision: Precision = "no"):
        spec = model.data
        if (not isinstance(model, Autoencoder) or spec.sample_rate is None or spec.dims != 1
                or not model.bottleneck.is_discrete):
            part = model.bottleneck if isinstance(model, Autoencoder) else model
            raise CheckpointError("Codec wants a model of audio with a discrete bottleneck (vq, rvq, fsq, grouped); "
                                  f"this one is of {spec} with {type(part).__name__}. Of several levels: LevelCodec.")
        self.model = model.eval().requires_grad_(False)
        self.sample_rate: int = spec.sample_rate
        self.hop, self.channels = model.hop, spec.channels
        self.stages = None if kbps is None else stages_within(model, kbps)
        self.num_codes = model.bottleneck.num_codes[:self.stages]
        self.speakers = spec.labels if isinstance(model.embedding, ConditionEmbedding) else ()
        self.fingerprint = fingerprint(model)
        self.model = model = in_precision(precision, self.model, ("encoder", "decoder"))
        self.prior, self.beam = prior, checked_beam(beam)
        if prior is not None:
            prior.check(self.fingerprint, (self.num_codes,))
        self.block = BLOCK
        self.fields: tuple[Field, Field] = (model.encoder.field, model.decoder.field)  # type: ignore[assignment]
        random, least = torch.Generator().manual_seed(0), min(self.num_codes)
        self._encoding = Together(lambda x, lengths, labels: model.hidden(x, None, lengths),
                                  lambda *shape: 0.1 * torch.randn(shape, generator=random), self.hop, 1)
        self._decoding = Together(lambda x, lengths, labels: model.decode(x, Condition(labels), lengths=lengths),
                                  lambda *shape: torch.randint(least, shape, generator=random), 1, self.hop)

    @property
    def latency(self) -> float:
        """Seconds of input, from the start of an output sample on, that must have come before it is final.

        What the receptive fields say: no output sample depends on anything later. Resampling comes on top.
        """
        return float(compose(*self.fields).right + 1) / self.sample_rate

    @classmethod
    def from_pretrained(cls, path: str | Path = DEFAULT, kbps: float | None = None, prior: bool = True,
                        beam: int = BEAM, precision: Precision = "no") -> "Codec":
        """Load a model that comes with audiovae, a checkpoint folder, a training run or a repository id of the hub.

        ``kbps`` is the most kbit/s that its codes may take, of a model that serves several rates; None for all of
        them. The prior over codes that lies beside the model is taken along unless ``prior`` is False. Raises
        CheckpointError where there is no model, ConfigError where it has no such rate, CodeFileError where the prior
        is of another model.
        """
        return cls(load_model(path), kbps, find_prior(path) if prior else None, beam, precision)

    def encode(self, waveform: Tensor | np.ndarray, sample_rate: int, speaker: str | None = None) -> Codes:
        """A waveform (T,) or (C, T), mixed to the model's channels and resampled as needed, to Codes.

        ``speaker`` is written into the codes for a decoder that is told one; when it is left out, the
        training speaker whose voice reconstructs the recording best is.

        Raises AudioError if it is too short, not finite or empty; LabelError on an unknown speaker.
        """
        return self.encode_batch([waveform], sample_rate, speaker)[0]

    def encode_batch(self, waveforms: Sequence[Tensor | np.ndarray], sample_rate: int, speaker: str | None = None,
                     lengths: Sequence[int] | None = None) -> list[Codes]:
        """Waveforms of any lengths, or a padded tensor (B, T) and its ``lengths`` in samples, to Codes each.

        They are those that :meth:`encode` gives each of them, which is faster together for short recordings.
        Errors are as there, and ShapeError where ``lengths`` do not fit.

        >>> from audiovae.models import AutoencoderConfig
        >>> from audiovae.shapes import DataSpec
        >>> codec = Codec(AutoencoderConfig().build(DataSpec(channels=1, dims=1, sample_rate=16000)))
        >>> padded = torch.randn(2, 9000)
        >>> batch = codec.encode_batch(padded, 16000, lengths=[9000, 5000])
        >>> [codes.levels[0].shape for codes in batch], [len(wave) for wave in codec.decode_batch(batch)]
        ([(8, 29), (8, 16)], [9000, 5000])
        """
        if lengths is not None:
            if len(lengths) != len(waveforms) or any(not 0 < n <= w.shape[-1]
                                                     for w, n in zip(waveforms, lengths, strict=False)):
                raise ShapeError(f"Codec.encode_batch wants a length of 1 to T for each of {len(waveforms)} waveforms, "
                                 f"got {list(lengths)}.")
            waveforms = [wave[..., :n] for wave, n in zip(waveforms, lengths, strict=True)]
        waves = [self._checked(waveform, sample_rate) for waveform in waveforms]
        padded = [F.pad(wave.view(self.channels, -1), (0, -wave.shape[-1] % self.hop)) for wave in waves]
        levels = self._blocks(padded, self._encode, [-1] * len(waves), self._halos[0], self.hop)
        batch = []
        for wave, level in zip(waves, levels, strict=True):
            its = self.closest_speaker(wave) if speaker is None and self.speakers else speaker
            header = vars(self.header(its))
            batch.append(Codes((level.numpy(),), num_samples=wave.shape[-1], prior=self.prior, **header))
        return batch

    @property
    def code_levels(self) -> tuple[CodeLevel, ...]:
        """Hop and codebooks of each level that it writes, the fastest first."""
        return (CodeLevel(self.hop, self.num_codes),)

    def _checked(self, waveform: Tensor | np.ndarray, sample_rate: int) -> Tensor:
        wave = channelled(waveform, self.channels)
        if not torch.isfinite(wave).all():
            raise AudioError("Codec.encode: the waveform has NaN or infinite samples.")
        wave = resample(wave, sample_rate, self.sample_rate)
        if wave.shape[-1] < self.hop:
            raise AudioError(f"Codec.encode: {wave.shape[-1]} samples at {self.sample_rate} Hz are shorter than one "
                             f"latent step ({self.hop}).")
        return wave

    @property
    def half_a_second(self) -> int:
        """Latent steps in it: the ``block`` for streams, a balance of what is waited for and what is worked twice."""
        return max(1, round(0.5 * self.sample_rate / self.hop))

    @property
    def lags(self) -> tuple[float, float]:
        """Seconds that a stream's codes, and its sound, may lag behind what has come, with this ``block``.

        The most that a sample waits for its code, or a code for its sound: a block, and the halo after it.
        """
        parts = (self._encoder_parts(), self.hop), (self._decoder_parts(None), 1)
        rights = [(part_halo(*its) if self.block < sum(halo) else halo)[1]
                  for its, halo in zip(parts, self._halos, strict=True)]
        encoding, decoding = ((self.block + right) * self.hop / self.sample_rate for right in rights)
        return encoding, decoding

    @property
    def _halos(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Latent steps that a block of the encoder, and of the decoder, is given before and after it.

        One at least after the decoder's: it stays behind until the end is known, to be cropped.
        """
        left, right = decoder_halo(self.fields[1])
        return encoder_halo(self.fields[0]), (left, max(right, 1))

    def _encoder_parts(self, read: Reader = None) -> list[Part]:
        return [*self.model.encoder_parts(), (read or self.quantize, Field())]

    def _decoder_parts(self, speaker: str | None) -> list[Part]:
        wait = 0 if decoder_halo(self.fields[1])[1] else self.hop
        return [*self.model.decoder_parts(self.condition(speaker)), (nn.Identity(), Field(right=Fraction(wait)))]

    def header(self, speaker: str | None = None) -> CodeHeader:
        """All that decoding this codec's codes needs to know besides their length."""
        return CodeHeader(self.sample_rate, hops=(self.hop,), num_codes=(self.num_codes,),
                          fingerprint=self.fingerprint, label=self.check(speaker), channels=self.channels)

    def codes(self, blocks: Iterable[tuple[np.ndarray, ...]], num_samples: Callable[[], int],
              speaker: str | None = None) -> Codes:
        """Blocks of codes, (Q, L) of every level, as one; ``num_samples`` tells the length once the last has come."""
        levels = tuple(np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True))
        return Codes(levels, num_samples=num_samples(), prior=self.prior, **vars(self.header(speaker)))

    def decode(self, codes: Codes, speaker: str | None = None, start: float = 0.0, stop: float | None = None,
               level: int | None = None) -> Tensor:
        """Codes to the waveform (T,), or (C, T), at ``sample_rate``, exactly as long as what was encoded.

        ``start`` and ``stop``, in seconds, ask for a part: bit for bit that of the whole, for the work of the blocks
        it lies in. Raises CodeFileError if another model made the codes, LabelError on an unknown speaker, ShapeError
        where there is no such part, ConfigError of a ``level`` but 0, which is all there is.
        """
        self._only_level(level)
        first, last = codes.samples(start, stop)
        return self._decoded([codes], speaker, (first // self.hop, -(-last // self.hop)))[0][
            ..., first % self.hop:first % self.hop + last - first]

    def decode_batch(self, batch: Sequence[Codes], speaker: str | None = None) -> list[Tensor]:
        """Codes each to the waveform (T,) that :meth:`decode` gives it, faster together if they are short."""
        return [wave[..., :codes.num_samples] for wave, codes in zip(self._decoded(batch, speaker), batch, strict=True)]

    def _decoded(self, batch: Sequence[Codes], speaker: str | None,
                 part: tuple[int, int] | None = None) -> list[Tensor]:
        """Each to the waveform (L * hop,), or (C, L * hop), of its latent steps, or of those in ``part``."""
        for codes in batch:
            codes.check_fingerprint(self.fingerprint)
        labels = [self._label(speaker or codes.label) for codes in batch]
        waves = self._blocks([torch.from_numpy(codes.levels[0]) for codes in batch], self._decode, labels,
                             self._halos[1], 1, part)
        return [self._plain(wave) for wave in waves]

    def _plain(self, wave: Tensor) -> Tensor:
        """A waveform (C, T) as users have it: (T,) where C is 1."""
        return wave[0] if self.channels == 1 else wave

    def _blocks(self, batch: Sequence[Tensor], run: Callable[[list[Tensor], list[int]], list[Tensor]],
                labels: Sequence[int], halo: tuple[int, int], unit: int,
                part: tuple[int, int] | None = None) -> list[Tensor]:
        """``run`` on the windows (C, n * unit) of every one of ``batch`` (C, L * unit), cut as a stream cuts them.

        Only those steps that are in ``part`` are given, and only the windows run that it touches.
        """
        block = self._block(halo)
        cuts = [[cut for cut in windows(0, x.shape[-1] // unit, x.shape[-1] // unit, halo, block)
                 if part is None or (cut[0] < part[1] and cut[1] > part[0])] for x in batch]
        cut = [x[:, low * unit:high * unit] for x, its in zip(batch, cuts, strict=True) for *_, low, high in its]
        done = iter(run(cut, [label for label, its in zip(labels, cuts, strict=True) for _ in its]))
        joined = []
        for its in cuts:
            parts = []
            for start, stop, low, high in its:
                out = next(done)
                step = out.shape[-1] // (high - low)
                if part is not None:
                    start, stop = max(start, part[0]), min(stop, part[1])
                parts.append(out[:, (start - low) * step:(stop - low) * step])
            joined.append(torch.cat(parts, dim=-1))
        return joined

    def _encode(self, pieces: list[Tensor], labels: list[int], read: Reader = None) -> list[Tensor]:
        """Windows (C, n * hop) of waveforms to codes (Q, n), or to what ``read`` takes."""
        hidden = self._encoding(pieces, labels, self._block(self._halos[0]) + sum(self._halos[0]), BLOCK)
        return [(read or self.quantize)(h[None])[0].cpu() for h in hidden]

    def quantize(self, h: Tensor) -> Tensor:
        """Hidden rows (B, D, L) to codes (B, Q, L), as it takes them for its files."""
        return self.model.quantize(h, self.stages, self.beam)

    def _decode(self, pieces: list[Tensor], labels: list[int]) -> list[Tensor]:
        """Windows (Q, n) of codes to waveforms (C, n * hop), told each its label."""
        halo = self._halos[1]
        return [wave.cpu() for wave in self._decoding(pieces, labels, self._block(halo) + sum(halo), BLOCK)]

    def _block(self, halo: tuple[int, int]) -> int:
        """``block``, unless it is so small that a stream goes part by part: whole windows would only be slow then."""
        return self.block if self.block >= sum(halo) else BLOCK

    def encode_stream(self, pieces: Iterable[Tensor], read: Reader = None) -> Iterator[np.ndarray]:
        """Pieces (n,), or (C, n), at ``sample_rate``, however cut, to blocks (Q, L) of codes or what ``read`` gives."""
        waves = (piece.reshape(1, self.channels, -1) for piece in padded(pieces, self.channels, self.hop))
        halo = self._halos[0]
        if self.block < sum(halo):
            stream = partwise(waves, self._encoder_parts(read), self.block, self.hop)
        else:
            encode = lambda x: self._encode([x[0]], [-1], read)[0][None]  # noqa: E731
            stream = blockwise(waves, encode, halo, self.block, unit_in=self.hop, unit_out=1)
        for block in stream:
            yield block[0].cpu().numpy()

    def decode_stream(self, blocks: Iterable[np.ndarray], num_samples: Callable[[], int],
                      speaker: str | None = None) -> Iterator[Tensor]:
        """Blocks (Q, L) of codes, however cut, to pieces (n,), or (C, n), of the waveform.

        ``num_samples`` tells the exact length, asked for after the last block; the last latent step is
        cropped to it.
        """
        label, ended, done = self._label(speaker), False, 0

        def codes() -> Iterator[Tensor]:
            nonlocal ended
            for block in blocks:
                yield torch.from_numpy(block)[None]
            ended = True

        if self.block < sum(self._halos[1]):
            stream = partwise(codes(), self._decoder_parts(speaker), self.block, unit=1)
        else:
            decode = lambda c: self._decode([c[0]], [label])[0][None]  # noqa: E731
            stream = blockwise(codes(), decode, self._halos[1], self.block, unit_in=1, unit_out=self.hop)
        for block in stream:
            piece = self._plain(block[0].cpu())
            yield piece[..., :num_samples() - done] if ended else piece
            done += piece.shape[-1]

    def encode_blocks(self, pieces: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, ...]]:
        """:meth:`encode_stream`, each block a tuple of its one level: what codecs of any number of levels offer."""
        return ((block,) for block in self.encode_stream(pieces))

    def decode_blocks(self, blocks: Iterable[tuple[np.ndarray, ...]], num_samples: Callable[[], int], speaker:
                      str | None = None, hops: tuple[int, ...] = (), level: int | None = None) -> Iterator[Tensor]:
        """:meth:`decode_stream` of such blocks, of levels of ``hops``; ``level`` 0 is all there is."""
        self._only_level(level)
        return self.decode_stream((block[0] for block in blocks), num_samples, speaker)

    def _only_level(self, level: int | None) -> None:
        if level:
            raise ConfigError(f"no level {level}: this model has level 0 alone.")

    def condition(self, speaker: str | None) -> Condition:
        """What the decoder is told for a speaker's name; None is "unknown"."""
        return Condition(torch.tensor([self._label(speaker)]))

    def _label(self, speaker: str | None) -> int:
        """What the decoder is told for a speaker's name; -1 is "unknown"."""
        speaker = self.check(speaker)
        return -1 if speaker is None else self.speakers.index(speaker)

    def check(self, speaker: str | None) -> str | None:
        """The name itself if this model knows it; LabelError with the nearest names if not."""
        if speaker is None or speaker in self.speakers:
            return speaker
        if not self.speakers:
            raise LabelError(f"no speaker '{speaker}': this model's decoder is not told who speaks.")
        raise LabelError(f"no speaker '{speaker}' in this model ({len(self.speakers)} speakers); "
                         f"{nearest(speaker, self.speakers)}.")

    def closest_speaker(self, wave: Tensor, seconds: float = 4.0) -> str:
        """The training speaker in whose voice the codes of a waveform (T,) sound most like it, in its loudest part."""
        return closest_voice(wave.view(self.channels, -1), self.sample_rate, self.hop, self.speakers, seconds=seconds,
                             read=lambda x: self.model.bottleneck.decode(self.model.encode(x)),
                             say=lambda z, told: self.model.likelihood.mean(self.model.params(z, told)))
