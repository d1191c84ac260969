"""Discrete codes of a recording or picture: in memory, in one self-describing file, and as arrays for others."""

from audiovae.codes.codes import Codes, Cut
from audiovae.codes.file import CodeReader, CodeWriter
from audiovae.codes.header import Canvas, CodeHeader
from audiovae.codes.prior import CodePrior

__all__ = ["Canvas", "CodeHeader", "CodePrior", "CodeReader", "CodeWriter", "Codes", "Cut"]
