"""What codes of a picture take beside its values: one table, of an evaluation and of samples."""

from collections.abc import Sequence
from math import log2, prod

from audiovae.models import Model
from audiovae.picture_codec import grids_of
from audiovae.report.table import Table


def compression(model: Model, size: Sequence[int]) -> Table:
    """What a picture of ``size`` (H, W) becomes: its values, each level's codes from the top, and the bits of both.

    Bits of codes are log2 K each, without entropy coding; a value takes log2 of its levels, 8 where they are not told.
    No rows where the model has no codes.

    >>> from audiovae.models import HierarchicalConfig
    >>> from audiovae.shapes import DataSpec
    >>> model = HierarchicalConfig().build(DataSpec(channels=3, dims=2, size=(256, 256), levels=256))
    >>> print(compression(model, (256, 256)).text())
    what        grid       numbers  bits each     bits   ratio
    values      256 × 256   196608       8.00  1572864    1.00
    level 1     32 × 32       1024       9.00     9216  170.67
    level 0     64 × 64       4096       9.00    36864   42.67
    all levels                5120       9.00    46080   34.13
    """
    columns = ("what", "grid", "numbers", "bits each", "bits", "ratio")
    if not model.code_levels:
        return Table(columns, [])
    values, each = model.data.channels * prod(size), log2(model.data.levels or 256)
    whole, total, numbers = values * each, 0.0, 0
    rows: list[tuple[str, str, int, float, float, float]] = [("values", _sides(size), values, each, whole, 1.0)]
    for index, (level, grid) in reversed(list(enumerate(zip(model.code_levels, grids_of(model, size), strict=True)))):
        bits, count = prod(grid) * sum(map(log2, level.num_codes)), prod(grid) * len(level.num_codes)
        total, numbers = total + bits, numbers + count
        rows.append((f"level {index}", _sides(grid), count, bits / count, bits, whole / bits))
    if len(model.code_levels) > 1:
        rows.append(("all levels", "", numbers, total / numbers, total, whole / total))
    return Table(columns, rows)


def _sides(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))
