"""Discrete codes of a recording: in memory, in one self-describing file, and as arrays for others."""

from audiovae.codes.codes import Codes, Cut
from audiovae.codes.file import CodeReader, CodeWriter
from audiovae.codes.header import CodeHeader
from audiovae.codes.prior import CodePrior

__all__ = ["CodeHeader", "CodePrior", "CodeReader", "CodeWriter", "Codes", "Cut"]
