"""A ladder of latents put on show: examples rebuilt from its top groups alone, one after the other switched on."""

import torch

from audiovae.errors import ConfigError
from audiovae.gallery.exhibit import Exhibit, show
from audiovae.gallery.study import Study
from audiovae.models import Ladder

MOST = 8  # depths that are shown, at most


def depths(study: Study, count: int = 8) -> Exhibit:
    """Held-out examples decoded with only the top groups told of them, the rest at their priors' means. Of sound, one.

    ConfigError where the model is no ladder.

    >>> from audiovae.gallery.study import example_study
    >>> depths(example_study())
    Traceback (most recent call last):
    audiovae.errors.ConfigError: latents: depths are of a ladder's groups, and this model has one latent.
    """
    model = study.model
    if not isinstance(model, Ladder):
        raise ConfigError("latents: depths are of a ladder's groups, and this model has one latent.")
    groups = model.group_count
    x = study.held_out.x[:count if study.sample_rate is None else 1]
    told = study.told(study.held_out, slice(0, len(x)))
    shown = sorted({round(g) for g in torch.linspace(0, groups, min(MOST, groups + 1)).tolist()})
    with torch.no_grad():
        rows = [x, *(model.reconstruct(x, told, groups=g) for g in shown)]
    names = ["original", *("none told" if g == 0 else f"top {g} of {groups}" for g in shown)]
    sentence = f"{len(x)} held-out examples with the top groups told of them, the others at the means of their priors."
    return show("depth", "Depth", sentence, rows, names, "From the top group down", study.sample_rate, study.mel)
