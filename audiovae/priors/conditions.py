"""What a prior is told: who and what, when in the whole, which text, and the codes of the level above."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, tau

import torch
from torch import Tensor, nn

from audiovae.config import Config, Count, Decay
from audiovae.errors import ShapeError
from audiovae.nn.resnet import ResidualStack
from audiovae.nn.transformer import Context
from audiovae.shapes import Condition, DataSpec, fixed_size

LETTERS = 256  # code points share rows of the table beyond as many


@dataclass(frozen=True)
class ToldConfig(Config):
    """What a prior listens to, of what its data comes with.

    names : labels, tags and embeddings: the artist, the genres, any label.
    timing, text : the place in the whole, and text as characters.
    dropout : how often training leaves names and text out, for guidance.
    upper_width, upper_depth : of the dilated stack over the codes of the level above.
    """

    names: bool = True
    timing: bool = True
    text: bool = True
    dropout: Decay = 0.1
    upper_width: Count = 64
    upper_depth: Count = 4


@dataclass
class Told:
    """A condition as a network takes it.

    vector : (B, D), added at every step. context : what to attend to, (B, N, D), or None.
    along : (B or 1, L, D), added step by step, L the steps of the grid in reading order; or None.
    """

    vector: Tensor
    context: Context | None = None
    along: Tensor | None = None


class Listener(nn.Module):
    """Condition -> Told, by learned tables and linear maps whose sizes the data decides.

    Names that training leaves out, and all of them at ``hear=False``, are one learned vector, "nothing said".

    >>> data = DataSpec(channels=1, dims=1, tags=("genre=Blues", "genre=Waltz"), timing=True)
    >>> listener = Listener(data, ToldConfig(), dim=8)
    >>> listener(Condition(tags=torch.tensor([[0.0, 1.0]])), batch=1, grid=(50,)).vector.shape
    torch.Size([1, 8])
    """

    def __init__(self, data: DataSpec, config: ToldConfig, dim: int):
        super().__init__()
        self.dropout = config.dropout
        self.label = nn.Embedding(len(data.labels), dim) if data.labels and config.names else None
        self.tags = nn.Linear(len(data.tags), dim, bias=False) if data.tags and config.names else None
        self.embedding = nn.Linear(data.embedding, dim, bias=False) if data.embedding and config.names else None
        self.timing = Timing(dim) if data.timing and config.timing else None
        self.text = Text(dim) if data.text and config.text else None
        self.names = any(part is not None for part in (self.label, self.tags, self.embedding))
        self.nothing = nn.Parameter(0.02 * torch.randn(dim)) if self.names else None
        upper = data.codes.upper if data.codes is not None else ()
        self.upper = Upper(upper, data.codes.ratio, data.dims, dim, config.upper_width,  # type: ignore[union-attr]
                           config.upper_depth) if upper else None
        self.height, self.width = (nn.Embedding(side, dim) for side in fixed_size("a prior over pictures", data)) \
            if data.dims == 2 else (None, None)
        for table in (self.label, self.tags, self.height, self.width):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    @property
    def context_dim(self) -> int:
        return self.text.dim if self.text is not None else 0

    @property
    def droppable(self) -> bool:
        """Whether there is something to leave out."""
        return self.names or self.text is not None

    def forward(self, condition: Condition | None, batch: int, grid: Sequence[int], hear: bool = True) -> Told:
        """ShapeError where the codes of the level above are missing, or are not those of this ``grid``."""
        condition = condition or Condition()
        device = next(self.parameters()).device if any(True for _ in self.parameters()) else torch.device("cpu")
        heard = torch.full((batch, 1), float(hear), device=device)
        if self.training and self.dropout:
            heard = heard * (torch.rand(batch, 1, device=device) >= self.dropout)
        vector: Tensor = torch.zeros(1, device=device)
        if self.nothing is not None:
            names, said = self._names(condition, batch)
            heard_names = heard * said
            vector = names * heard_names + self.nothing * (1 - heard_names)
        if self.timing is not None and condition.timing is not None:
            vector = vector + self.timing(condition.timing)
        context = None
        if self.text is not None:
            text = condition.text if condition.text is not None else torch.zeros(batch, 1, dtype=torch.int64)
            context = self.text(text.to(device) * heard.long())
        return Told(vector, context, self._along(condition, grid))

    def _names(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor]:
        """The sum of what is said, (B, D) or (1, D), and whether anything is (B, 1)."""
        total: Tensor = torch.zeros_like(self.nothing)[None]  # type: ignore[arg-type]
        said = total.new_zeros(batch, 1)
        if self.label is not None and condition.label is not None:
            known = (condition.label >= 0)[:, None]
            total = total + self.label(condition.label.clamp(min=0)) * known
            said = said + known
        if self.tags is not None and condition.tags is not None:
            total = total + self.tags(condition.tags)
            said = said + (condition.tags != 0).any(1, keepdim=True)
        if self.embedding is not None and condition.embedding is not None:
            total = total + self.embedding(condition.embedding)
            said = said + 1
        return total, said.clamp(max=1)

    def _along(self, condition: Condition, grid: Sequence[int]) -> Tensor | None:
        along = None
        if self.upper is not None:
            if condition.upper is None:
                raise ShapeError("this prior wants the codes of the level above, Condition.upper, got none: sample or "
                                 "encode that level first.")
            along = self.upper(condition.upper)
            if along.shape[2:] != tuple(grid):
                raise ShapeError(f"this prior wants codes of the level above for {tuple(grid)} steps, got them for "
                                 f"{tuple(along.shape[2:])}: a code there is {self.upper.ratio} here on every axis.")
        if self.height is not None and self.width is not None:
            here = self.height.weight.T[:, : grid[0], None] + self.width.weight.T[:, None, : grid[1]]
            along = here if along is None else along + here
        return None if along is None else along.flatten(-len(grid)).reshape(-1, along.shape[-1 - len(grid)],
                                                                            prod(grid)).transpose(1, 2)


class Timing(nn.Module):
    """(B, 3) seconds in all, seconds so far and share so far -> (B, D), by sines of several speeds.

    >>> Timing(8)(torch.tensor([[60.0, 30.0, 0.5]])).shape
    torch.Size([1, 8])
    """

    SPEEDS = 8

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(3 * 2 * self.SPEEDS, dim, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(self, timing: Tensor) -> Tensor:
        seconds = (timing[:, :2].clamp(min=0) / 10).log1p() / 8  # up to eight hours lie between 0 and 1
        phase = tau / 4 * torch.cat([seconds, timing[:, 2:]], dim=1)[:, :, None] * 2.0 ** torch.arange(
            self.SPEEDS, device=timing.device)
        return self.linear(torch.cat([phase.sin(), phase.cos()], dim=2).flatten(1))


class Text(nn.Module):
    """Code points (B, N) int64 -> (B, N, D): a letter, and where it stands.

    0 is no letter: what follows a text that is shorter than others of its batch is not there. Where there is no text at
    all, the first 0 is, and stands for silence.

    >>> values, there = Text(8)(torch.tensor([[104, 105, 33], [104, 0, 0], [0, 0, 0]]))
    >>> values.shape, there.sum(1)
    (torch.Size([3, 3, 8]), tensor([3, 1, 1]))
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.letters = nn.Embedding(LETTERS, dim)
        self.order = nn.Conv1d(dim, dim, 5, padding=2)

    def forward(self, text: Tensor) -> Context:
        there = text != 0
        there[:, 0] = True
        x = self.letters(text % LETTERS)
        place = torch.arange(text.shape[1], device=text.device)[:, None] / 10_000 ** (
            torch.arange(0, self.dim, 2, device=text.device) / self.dim)
        x = (x + torch.cat([place.sin(), place.cos()], dim=1)[:, : self.dim]) * there[..., None]
        return Context(x + self.order(x.transpose(1, 2)).transpose(1, 2), there)


class Upper(nn.Module):
    """Codes of the level above (B, Q', *grid) -> (B, D, *grid * ratio), each code's answer held for ``ratio`` steps.

    A dilated residual stack lets every step see what is to come above, as in Jukebox (Dhariwal 2020, section 4.2).

    >>> upper = Upper((512,), ratio=4, dims=1, dim_out=8, width=16, depth=2)
    >>> upper(torch.zeros(2, 1, 5, dtype=torch.int64)).shape
    torch.Size([2, 8, 20])
    """

    offsets: Tensor

    def __init__(self, num_codes: tuple[int, ...], ratio: int, dims: int, dim_out: int, width: int, depth: int):
        super().__init__()
        self.num_codes, self.ratio, self.dims = num_codes, ratio, dims
        self.table = nn.Embedding(sum(num_codes), width)
        self.stack = ResidualStack(dims, width, depth, growth=3 if dims == 1 else 2)
        self.place = nn.Parameter(torch.zeros(dim_out, *[ratio] * dims))  # which of the steps of a code above it is
        self.out = nn.Linear(width, dim_out)
        offsets = torch.tensor([sum(num_codes[:q]) for q in range(len(num_codes))])
        self.register_buffer("offsets", offsets.view(-1, *[1] * dims), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        if codes.ndim != 2 + self.dims or codes.shape[1] != len(self.num_codes):
            raise ShapeError(f"this prior wants codes of the level above as (B, Q={len(self.num_codes)}, ...), got "
                             f"{tuple(codes.shape)}.")
        there = (codes >= 0).unsqueeze(-1)
        x = (self.table(codes.clamp(min=0) + self.offsets) * there).sum(1).movedim(-1, 1)
        x = self.out(self.stack(x).movedim(1, -1)).movedim(-1, 1)
        for axis in range(2, 2 + self.dims):
            x = x.repeat_interleave(self.ratio, axis)
        tiles = [side // self.ratio for side in x.shape[2:]]
        return x + self.place.repeat(1, *tiles)


def letters(text: str) -> Tensor:
    """Code points (N,) int64, one 0 for no text.

    >>> letters("hi"), letters("")
    (tensor([104, 105]), tensor([0]))
    """
    return torch.tensor([ord(letter) for letter in text] or [0])
