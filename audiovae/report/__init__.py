"""What was measured and heard, for a screen, a program and a browser."""

from audiovae.report.compression import compression
from audiovae.report.figures import draw_codes, draw_loss, draw_spectrograms, draw_usage, draw_waveform
from audiovae.report.matrix import draw_matrix, draw_self_similarity
from audiovae.report.page import Report
from audiovae.report.pictures import draw_groups, draw_kl, draw_pictures, draw_rate_distortion
from audiovae.report.table import Table

__all__ = [
    "Report",
    "Table",
    "compression",
    "draw_codes",
    "draw_groups",
    "draw_kl",
    "draw_loss",
    "draw_matrix",
    "draw_pictures",
    "draw_rate_distortion",
    "draw_self_similarity",
    "draw_spectrograms",
    "draw_usage",
    "draw_waveform",
]
