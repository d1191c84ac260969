"""A latent space put on show: each exhibit is pictures or sounds, tables, and a sentence on what is seen."""

from audiovae.gallery.attribute import attribute
from audiovae.gallery.depths import depths
from audiovae.gallery.diagnosis import diagnosis, neighbours
from audiovae.gallery.exhibit import Exhibit
from audiovae.gallery.study import Study, open_study, recordings
from audiovae.gallery.walks import interpolation, plane, restyled, samples, traversal

__all__ = [
    "Exhibit",
    "Study",
    "attribute",
    "depths",
    "diagnosis",
    "interpolation",
    "neighbours",
    "open_study",
    "plane",
    "recordings",
    "restyled",
    "samples",
    "traversal",
]
