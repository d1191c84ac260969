"""Packets of a code file: codes to entropy-coded payloads and back, by the model that makes each smaller.

What a packet and its payload hold is laid down in file.py.
"""

import struct
from collections.abc import Sequence
from itertools import islice
from zlib import crc32

import numpy as np
from constriction import stream  # pyright: ignore - compiled, it brings no types

from audiovae.codes.entropy import WEIGHTS, CountingModel
from audiovae.codes.header import CodeHeader
from audiovae.codes.prior import CodePrior

LEARNT = 255  # in place of the weights; no index into them
STEPS = 2048  # of level 0 in a packet, about: few to hold, yet 20 bytes weigh little; a fact of version 1


class Packets:
    """Codes to payloads and back; holds what goes on from packet to packet: the counts and the crc."""

    def __init__(self, header: CodeHeader, prior: CodePrior | None = None):
        self.prior, self.num_codes = prior, header.num_codes
        self.models = [CountingModel(k) for sizes in header.num_codes for k in sizes]
        self.last = 0
        unit = header.hops[-1]  # a packet ends at the same sample in every level
        span = max(1, STEPS * header.hops[0] // unit) * unit
        self.steps = tuple(span // hop for hop in header.hops)

    def seal(self, payload: bytes) -> bytes:
        return struct.pack("<II", len(payload), self.crc(payload)) + payload

    def crc(self, payload: bytes) -> int:
        self.last = crc32(payload, crc32(struct.pack("<I", len(payload)), self.last))
        return self.last

    def encode(self, levels: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
        """What comes before the coder's words, and these."""
        front = struct.pack(f"<{len(levels)}I", *(codes.shape[1] for codes in levels))
        rows = [row for codes in levels for row in codes]
        choices, bits = zip(*(model.cheapest(row) for model, row in zip(self.models, rows, strict=True)), strict=True)
        coder = stream.queue.RangeEncoder()
        if self.prior is not None:
            self.prior.encode(coder, levels[0])
            if coder.num_bits() <= sum(bits) + 8 * (len(rows) - 1):
                self._count(levels)
                return front + bytes([LEARNT]), _words(coder)
            coder = stream.queue.RangeEncoder()
        for model, row, choice in zip(self.models, rows, choices, strict=True):
            model.encode(coder, row, choice)
        return front + bytes(choices), _words(coder)

    def decode(self, payload: bytes) -> tuple[np.ndarray, ...] | None:
        """The codes of each level; None where the payload is not one that ``encode`` made."""
        front = 4 * len(self.steps)
        learnt = self.prior is not None and payload[front:front + 1] == bytes([LEARNT])
        back = front + (1 if learnt else len(self.models))
        if len(payload) < back + 4 or (len(payload) - back) % 4:
            return None
        lengths = struct.unpack(f"<{len(self.steps)}I", payload[:front])
        choices = payload[front:back]
        if any(n > most for n, most in zip(lengths, self.steps, strict=True)) or not any(lengths):
            return None
        if not learnt and max(choices) >= len(WEIGHTS):
            return None
        coder = stream.queue.RangeDecoder(np.frombuffer(payload[back:-4], dtype="<u4").astype(np.uint32))
        try:
            levels = self._learnt(coder, lengths[0]) if learnt else self._counted(coder, lengths, choices)
        except (AssertionError, ValueError):  # the coder's words, and the prior's, for "these bytes are not mine"
            return None
        return levels if struct.pack("<I", codes_crc(levels)) == payload[-4:] else None

    def _counted(self, coder: stream.queue.RangeDecoder, lengths: Sequence[int],
                 choices: bytes) -> tuple[np.ndarray, ...]:
        models = zip(self.models, choices, strict=True)
        return tuple(np.stack([model.decode(coder, n, choice) for model, choice in islice(models, len(sizes))])
                     for sizes, n in zip(self.num_codes, lengths, strict=True))

    def _learnt(self, coder: stream.queue.RangeDecoder, length: int) -> tuple[np.ndarray, ...]:
        assert self.prior is not None
        codes = self.prior.decode(coder, len(self.models), length)
        self._count((codes,))
        return (codes,)

    def _count(self, levels: Sequence[np.ndarray]) -> None:
        for model, row in zip(self.models, (row for codes in levels for row in codes), strict=True):
            model.count(row)


def _words(coder: stream.queue.RangeEncoder) -> bytes:
    return coder.get_compressed().astype("<u4").tobytes()


def codes_crc(levels: Sequence[np.ndarray]) -> int:
    crc = 0
    for codes in levels:
        crc = crc32(np.ascontiguousarray(codes, dtype="<i8").tobytes(), crc)
    return crc
