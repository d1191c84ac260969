"""Samples written during training: what goes in beside what comes out."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor

from audiovae.audio.io import write_audio
from audiovae.models import DensityModel, Model, Multires, PriorModel
from audiovae.shapes import Batch

COUNT = 4


def write_samples(folder: Path, model: Model, batch: Batch) -> None:
    """Write the first examples of a batch and what the model makes of them: wav for audio, one png for pictures.

    That is their reconstructions, or new data of a model that has no latent to pass them through. Codes are neither
    heard nor seen: a prior writes nothing.
    """
    if isinstance(model, PriorModel):
        return
    folder.mkdir(parents=True, exist_ok=True)
    x = batch.x[:COUNT]
    condition = batch.condition.first(COUNT)
    if isinstance(model, DensityModel):
        estimates = {"sample": model.sample(len(x), condition, size=tuple(x.shape[2:]))}
    elif isinstance(model, Multires):
        estimates = {f"level-{level}": model.reconstruct(x, condition, level) for level in model.shown}
    else:
        estimates = {"reconstruction": model.reconstruct(x, condition)}
    if model.data.sample_rate is not None:
        for name, waves in {"source": x, **estimates}.items():
            for i, wave in enumerate(waves.cpu()):
                write_audio(folder / f"{i}-{name}.wav", wave, model.data.sample_rate)
    else:
        imsave(folder / f"source-above-{'-'.join(estimates)}.png", picture(x, *estimates.values()))


def picture(*rows: Tensor) -> np.ndarray:
    """Batches of pictures (B, C, H, W) in [0, 1] as rows of one picture (H', W', 3) of numpy uint8.

    >>> picture(torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)).shape
    (16, 32, 3)
    """
    canvas = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2).cpu()
    return canvas.clamp(0, 1).mul(255).byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
