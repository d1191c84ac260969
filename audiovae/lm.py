"""Codes for language models: sequences of tokens and back, and batches of them from a folder of code files.

Two patterns turn codes (Q, L) into tokens: "flat" puts the quantizers of a step one after the other in one row;
"delay" keeps Q rows, row q moved q places to the right, so that a model that gives all rows of a place at once
still knows the coarser codes of a step before the finer (Copet et al. 2023, section 2.1).
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiovae.codes import CodeHeader, CodePrior, Codes
from audiovae.errors import CodeFileError, ConfigError, ShapeError
from audiovae.files import expand_inputs
from audiovae.shards import Row

TABLE = "metadata.tsv"


@dataclass(frozen=True)
class Vocabulary:
    """Which number stands for what, and how codes become tokens and tokens codes.

    Parameters
    ----------
    num_codes : K of each of the Q quantizers.
    pattern : "flat", tokens (S,) with S = 1 + Q L + 1: bos, step after step, eos; code k of quantizer q is token
        offsets[q] + k. "delay", tokens (Q, S) with S = 1 + L + Q: row q is bos, q times empty, its L codes as they
        are, eos, and empty to the end.

    The four specials follow the codes: ``bos``, ``eos``, ``pad`` (behind the shorter ones of a batch) and ``empty``.

    >>> flat, delay = Vocabulary((4, 3)), Vocabulary((4, 3), "delay")
    >>> flat.size, flat.bos, flat.eos, flat.pad, flat.empty, delay.size, delay.bos
    (11, 7, 8, 9, 10, 8, 4)
    >>> codes = np.array([[3, 1], [2, 0]])
    >>> flat.tokens(codes)
    array([7, 3, 6, 1, 4, 8])
    >>> delay.tokens(codes)
    array([[4, 3, 1, 5, 7], [4, 7, 2, 0, 5]])
    >>> delay.codes(delay.tokens(codes)[:, :3])                 # cut short: the steps that are whole
    array([[3], [2]])
    """

    num_codes: tuple[int, ...]
    pattern: Literal["flat", "delay"] = "flat"

    def __post_init__(self) -> None:
        if self.pattern not in ("flat", "delay") or not self.num_codes or min(self.num_codes) < 1:
            raise ConfigError("Vocabulary wants codebook sizes of at least 1 and pattern 'flat' or 'delay', got "
                              f"{self.num_codes} and {self.pattern!r}.")

    @property
    def offsets(self) -> tuple[int, ...]:
        """The token of code 0 of each quantizer."""
        if self.pattern == "delay":
            return (0,) * len(self.num_codes)
        return tuple(int(sum(self.num_codes[:q])) for q in range(len(self.num_codes)))

    @property
    def bos(self) -> int:
        """Also the number of tokens that stand for codes."""
        return max(self.num_codes) if self.pattern == "delay" else sum(self.num_codes)

    @property
    def eos(self) -> int:
        return self.bos + 1

    @property
    def pad(self) -> int:
        return self.bos + 2

    @property
    def empty(self) -> int:
        return self.bos + 3

    @property
    def size(self) -> int:
        """Tokens in all; each row of the delay pattern has as many."""
        return self.bos + 4

    def tokens(self, codes: np.ndarray) -> np.ndarray:
        """Codes (Q, L) to int64 tokens, (S,) or (Q, S); ShapeError where they are not of these codebooks."""
        codes = np.asarray(codes)
        rows, sizes = len(self.num_codes), np.array(self.num_codes)[:, None]
        if codes.ndim != 2 or len(codes) != rows or ((codes < 0) | (codes >= sizes)).any():
            raise ShapeError(f"Vocabulary wants codes as (Q={rows}, L), below {self.num_codes}, got {codes.shape}.")
        moved = codes.astype(np.int64) + np.array(self.offsets)[:, None]
        if self.pattern == "flat":
            return np.concatenate([[self.bos], moved.T.ravel(), [self.eos]])
        steps = codes.shape[1]
        tokens = np.full((rows, 1 + steps + rows), self.empty)
        tokens[:, 0] = self.bos
        for q, row in enumerate(moved):
            tokens[q, 1 + q:1 + q + steps] = row
            tokens[q, 1 + q + steps] = self.eos
        return tokens

    def codes(self, tokens: np.ndarray | Tensor) -> np.ndarray:
        """Tokens to codes (Q, L), the exact inverse; of a generation cut short, the steps that are whole.

        What follows the first eos, pad or unfit empty of a row is not read. Raises ShapeError where a code stands
        that its place does not allow (``legal`` tells which does), or where bos is missing.
        """
        tokens = np.asarray(tokens)
        rows = len(self.num_codes)
        if tokens.ndim != (1 if self.pattern == "flat" else 2) or (tokens.ndim == 2 and len(tokens) != rows):
            wanted = "(S,)" if self.pattern == "flat" else f"(Q={rows}, S)"
            raise ShapeError(f"Vocabulary '{self.pattern}' wants tokens as {wanted}, got {tokens.shape}.")
        if not tokens.shape[-1] or (tokens[..., 0] != self.bos).any():
            raise ShapeError(f"Vocabulary wants tokens that begin with bos ({self.bos}).")
        if self.pattern == "flat":
            body = tokens[1:1 + _run(tokens[1:] < self.bos)]
            body = body[:len(body) // rows * rows].reshape(-1, rows).T
        else:
            for q in range(rows):
                if (tokens[q, 1:1 + q] != self.empty).any():
                    raise ShapeError(f"Vocabulary wants row {q} to begin with bos and {q} times empty ({self.empty}).")
            parts = [row[1 + q:] for q, row in enumerate(tokens)]
            steps = min(_run(part < self.bos) for part in parts)
            body = np.stack([part[:steps] for part in parts])
        codes = body - np.array(self.offsets)[:, None]
        wrong = (codes < 0) | (codes >= np.array(self.num_codes)[:, None])
        if wrong.any():
            q, step = np.argwhere(wrong)[0]
            raise ShapeError(f"Vocabulary: token {body[q, step]} is no code of quantizer {q} (step {step}).")
        return codes.astype(np.int64)

    def legal(self, place: int) -> np.ndarray:
        """Which tokens may stand at ``place`` (0 is bos's) of a sequence that has not ended: bool (size,) or (Q, size).

        In the delay pattern, only row 0 chooses when to end; once it has, row q ends q places later.
        """
        rows = len(self.num_codes)
        legal = np.zeros((rows, self.size), dtype=bool)
        for q, (offset, size) in enumerate(zip(self.offsets, self.num_codes, strict=True)):
            legal[q, offset:offset + size] = True
        if self.pattern == "flat":
            row = legal[(place - 1) % rows]
            row[self.eos] = (place - 1) % rows == 0
            return row if place else np.arange(self.size) == self.bos
        legal[0, self.eos] = True
        waiting = np.arange(rows) >= place
        legal[waiting] = np.arange(self.size) == (self.empty if place else self.bos)
        return legal

    def to_codes(self, tokens: np.ndarray | Tensor, header: CodeHeader) -> Codes:
        """Tokens to Codes that ``header``'s model decodes (``Codec.header()``), whole steps long.

        Raises ShapeError as :meth:`codes` does, or where there is no whole step.
        """
        if header.num_codes != (self.num_codes,):
            raise ShapeError(f"Vocabulary of codebooks {self.num_codes} does not fit codes of {header.num_codes}.")
        level = self.codes(tokens)
        if not level.shape[1]:
            raise ShapeError("Vocabulary: these tokens hold no whole step: generate more.")
        return Codes((level,), num_samples=level.shape[1] * header.hops[0], **vars(header))


class Utterance(NamedTuple):
    """One recording's codes (Q, L), who speaks and what is said, as far as known."""

    codes: np.ndarray
    speaker: str | None
    text: str | None


class Batch(NamedTuple):
    """tokens (B, S) or (B, Q, S) int64, pad behind the shorter; lengths (B,) of them; names and texts, B of each."""

    tokens: Tensor
    lengths: Tensor
    speakers: tuple[str | None, ...]
    texts: tuple[str | None, ...]


class Utterances:
    """The codes of a folder of code files, read again at every pass, or of Codes or rows of shards; of one model.

    The text of ``a.codes`` is that of ``a.txt`` beside it, its speaker the label in the file. A ``metadata.tsv`` in
    the folder, with a first line ``file<tab>speaker<tab>text`` and files named below the folder, goes before both.
    Files coded with a prior that does not come with audiovae want that ``prior``, :attr:`Codec.prior`. Rows of
    :func:`audiovae.shards.read_shards` bring speaker and text along.

    Raises CodeFileError on codes of another model than the first, or of several levels; ConfigError on such a table
    that lacks a column; AudioError on a folder without code files.

    >>> codes = Codes((np.arange(8).reshape(2, 4),), 16000, 1200, (320,), ((8, 8),), "9f3c", label="anna")
    >>> utterances = Utterances([codes, codes.slice(0, 0.03).codes])
    >>> vocabulary = Vocabulary(utterances.header.num_codes[0], "delay")
    >>> batch = next(utterances.batches(vocabulary, size=2, seed=None))
    >>> batch.tokens.shape, batch.lengths, batch.speakers
    (torch.Size([2, 2, 7]), tensor([7, 5]), ('anna', 'anna'))
    """

    def __init__(self, source: str | Path | Iterable[Codes | Row], prior: CodePrior | None = None):
        self.prior = prior
        if isinstance(source, str | Path):
            found = expand_inputs([source], (".codes", ".npz"))
            self.items: Sequence[tuple[Path, Path] | Codes | Row] = [(item.path, item.relative) for item in found]
            self.table = _table(Path(source) / TABLE)
        else:
            self.items, self.table = list(source), {}
        if not self.items:
            raise ShapeError("Utterances want at least one Codes, got none.")
        self.header = self._load(0)[0].header

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Utterance:
        codes, speaker, text = self._load(place)
        codes.check_fingerprint(self.header.fingerprint)
        if codes.num_codes != self.header.num_codes or len(codes.levels) != 1:
            raise CodeFileError(f"utterance {place} has codebooks {codes.num_codes}, wanted one level as the first, "
                                f"{self.header.num_codes}: encode all at one rate.")
        return Utterance(codes.levels[0], speaker, text)

    def batches(self, vocabulary: Vocabulary, size: int, seed: int | None = 0,
                steps: int | None = None) -> Iterator[Batch]:
        """One pass: ``size`` utterances at a time, the last batch smaller.

        ``seed`` shuffles them (None: in order); ``steps`` takes of longer ones a stretch of as many latent steps,
        from a random place (None: all of them).
        """
        rng = np.random.default_rng(seed)
        order = np.arange(len(self)) if seed is None else rng.permutation(len(self))
        for start in range(0, len(order), size):
            some = [self[int(place)] for place in order[start:start + size]]
            rows = []
            for utterance in some:
                spare = 0 if steps is None else max(0, utterance.codes.shape[1] - steps)
                first = int(rng.integers(spare + 1)) if seed is not None else 0
                rows.append(vocabulary.tokens(utterance.codes[:, first:utterance.codes.shape[1] - spare + first]))
            yield Batch(padded(rows, vocabulary.pad), torch.tensor([row.shape[-1] for row in rows]),
                        tuple(u.speaker for u in some), tuple(u.text for u in some))

    def _load(self, place: int) -> tuple[Codes, str | None, str | None]:
        item = self.items[place]
        if isinstance(item, Codes):
            return item, item.label, None
        if isinstance(item, Row):
            return item.to_codes(), item.speaker or item.label, item.text
        path, relative = item
        codes, beside = Codes.load(path, self.prior), path.with_suffix(".txt")
        text = beside.read_text("utf-8", "replace").strip() if beside.is_file() else None
        listed = self.table.get(relative.as_posix(), {})
        return codes, listed.get("speaker") or codes.label, listed.get("text") or text


def padded(rows: list[np.ndarray], value: int) -> Tensor:
    """Arrays (..., n) of unequal n as one tensor (B, ..., max n), ``value`` behind the shorter.

    >>> padded([np.array([1, 2]), np.array([3])], value=0)
    tensor([[1, 2], [3, 0]])
    """
    longest = max(row.shape[-1] for row in rows)
    tokens = np.full((len(rows), *rows[0].shape[:-1], longest), value, dtype=np.int64)
    for row, tokens_of in zip(rows, tokens, strict=True):
        tokens_of[..., :row.shape[-1]] = row
    return torch.from_numpy(tokens)


def _run(holds: np.ndarray) -> int:
    """How many of the first are true."""
    return len(holds) if holds.all() else int(holds.argmin())


def _table(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"file", "speaker", "text"} <= set(rows.fieldnames or ()):
            raise ConfigError(f"{path} wants a first line of file, speaker and text, apart by tabs.")
        return {row["file"]: row for row in rows}
