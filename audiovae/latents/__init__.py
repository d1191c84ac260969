"""Tools that walk a model's latent space: between points, along dimensions and attributes, to neighbours."""

from audiovae.latents.attributes import Judge, Move, attribute_vector, move, pooled, report_move, train_judge
from audiovae.latents.augment import augment, write_variations
from audiovae.latents.coding import encode, generate, kl_per_dimension, locate, standard_kl
from audiovae.latents.neighbours import Novelty, nearest, novelty
from audiovae.latents.walks import interpolate, manifold, restyle, traverse

__all__ = [
    "Judge",
    "Move",
    "Novelty",
    "attribute_vector",
    "augment",
    "encode",
    "generate",
    "interpolate",
    "kl_per_dimension",
    "locate",
    "manifold",
    "move",
    "nearest",
    "novelty",
    "pooled",
    "report_move",
    "restyle",
    "standard_kl",
    "train_judge",
    "traverse",
    "write_variations",
]
