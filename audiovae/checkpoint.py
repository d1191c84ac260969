"""Models on disk: a folder with ``model.safetensors`` and a readable ``config.json``, never a pickle.

A training run is a folder of such folders, ``checkpoint-00001000`` and so on; the last one is the model.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiovae.config import from_dict, to_dict
from audiovae.errors import AudiovaeError, CheckpointError
from audiovae.models import Model, ModelConfig
from audiovae.shapes import DataSpec

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"  # models that come with the package, by name
DEFAULT = "speech-16k"
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"}


def save_model(folder: Path, model: Model, config: ModelConfig, state: dict[str, Tensor] | None = None,
               experiment: dict[str, Any] | None = None, networks: dict[str, str] | None = None) -> None:
    """Write ``model.safetensors`` and ``config.json`` into an existing folder.

    ``state`` replaces the model's own weights (averaged ones, say); ``experiment`` is the whole
    configuration of the run, kept so that ``train --resume`` needs nothing else; ``networks`` names the feature
    networks that its criteria compared in.
    """
    write_tensors(folder / "model.safetensors", state or model.state_dict())
    description = {"format": FORMAT, "data": dataclasses.asdict(model.data), "model": to_dict(config)}
    if experiment is not None:
        description["experiment"] = experiment
    if networks:
        description["networks"] = networks
    (folder / "config.json").write_text(json.dumps(description, indent=1) + "\n")


def save_half(sources: str | Path | Sequence[str | Path], folder: Path) -> None:
    """Write the model that ``sources`` names into an existing folder, its weights in half precision, for passing on.

    Of several models the mean of their weights is written (Wortsman 2022, "Model soups"), which is of use where they
    come from one another or from a common ancestor; one that is named twice counts twice.
    What only a run needs is left out: its experiment with the paths in it, labels that the model is not told, and a
    label adversary.
    Raises CheckpointError where a weight is beyond half precision, or several models are not alike in all settings.

    >>> import tempfile
    >>> from audiovae.models import AutoencoderConfig
    >>> config, (one, half) = AutoencoderConfig(), (Path(tempfile.mkdtemp()) for _ in range(2))
    >>> save_model(one, config.build(DataSpec(channels=1, dims=1, sample_rate=16000)), config)
    >>> save_half(one, half)
    >>> size = lambda folder: (folder / "model.safetensors").stat().st_size
    >>> round(size(one) / size(half), 1), type(load_model(half)).__name__
    (2.0, 'Autoencoder')
    """
    found = [find_checkpoint(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    described = [_bare(read_description(checkpoint)) for checkpoint in found]
    weights = [_without_adversary(read_tensors(checkpoint / "model.safetensors")) for checkpoint in found]
    description, first = described[0], weights[0]
    kinds = [{"model": to_dict(_config(said, checkpoint)), "data": said["data"],
              "shape of": {name: value.shape for name, value in its.items()}}
             for checkpoint, its, said in zip(found, weights, described, strict=True)]
    for checkpoint, kind in zip(found, kinds, strict=True):
        if kind != kinds[0]:
            raise CheckpointError(f"checkpoint {checkpoint}: another model than {found[0]}, so that their weights have "
                                  f"no mean ({_unlike(kind, kinds[0])}): name models of one config.json.")
    half = {name: torch.stack([its[name] for its in weights]).mean(0).half() if value.is_floating_point() else value
            for name, value in first.items()}
    beyond = [name for name, value in half.items() if value.is_floating_point() and not value.isfinite().all()]
    if beyond:
        raise CheckpointError(f"checkpoint {found[0]}: {beyond[0]} is beyond half precision: keep the model as it is.")
    write_tensors(folder / "model.safetensors", half)
    (folder / "config.json").write_text(json.dumps(description, indent=1) + "\n")


def _config(description: dict[str, Any], folder: Path) -> ModelConfig:
    return from_dict(cast(Any, ModelConfig), description["model"], source=str(folder / "config.json"))


def _unlike(one: Any, other: Any, name: str = "") -> str:
    """The first place where two nested tables differ, and what they say there."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return f"{name} is {one}, there {other}"
    key = next(key for key in one | other if one.get(key) != other.get(key))
    return _unlike(one.get(key), other.get(key), f"{name}.{key}".strip("."))


def _bare(description: dict[str, Any]) -> dict[str, Any]:
    """The description of a checkpoint without what only its run needs."""
    description.pop("experiment", None)
    for part in (description["model"], *description["model"].get("levels", ())):
        part.pop("label_adversary", None)
    if not description["model"].get("condition_dim") or description["model"].get("reference"):
        description["data"]["labels"] = []
    return description


def load_model(path: str | Path) -> Model:
    """Load a model for use: by its name one that comes with audiovae, a checkpoint folder, a training run, or a
    repository id of the hub.

    Raises
    ------
    CheckpointError
        If there is none, it is a pickle (refused: loading one can run code), is damaged, or was
        written by a newer audiovae.
    """
    folder = find_checkpoint(path)
    description = read_description(folder)
    try:
        spec = from_dict(DataSpec, description["data"], source=str(folder / "config.json"))
        model = _config(description, folder).build(spec)
        model.load_state_dict(read_tensors(folder / "model.safetensors"))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder}: config.json lacks or misstates {error}.") from None
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {folder}: weights do not fit config.json ({_line(error)}).") from None
    except AudiovaeError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(str(error)) from None
    return model.eval()


def load_weights(model: Model, path: str | Path) -> None:
    """Give a model the weights of another of the same parts and sizes, which ``path`` names as for :func:`load_model`.

    A label adversary, which nothing but training uses and whose labels may be others, begins anew.

    Raises CheckpointError where there is none, or where its weights are others than the model's.

    >>> from audiovae.models import AutoencoderConfig
    >>> load_weights(AutoencoderConfig().build(DataSpec(channels=1, dims=1, sample_rate=16000)), "speech-16k")
    Traceback (most recent call last):
        ...
    audiovae.errors.CheckpointError: ...: its weights are not of the model that is to be trained (...
    """
    folder = find_checkpoint(path)
    read_description(folder)  # says so where it is of a newer format
    try:
        anew = {name: weights for name, weights in model.state_dict().items() if _of_adversary(name)}
        model.load_state_dict(_without_adversary(read_tensors(folder / "model.safetensors")) | anew)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {folder}: its weights are not of the model that is to be trained "
                              f"({_line(error)}): set [model] as its config.json has it.") from None


def _of_adversary(name: str) -> bool:
    return "label_adversary" in name.split(".")


def _without_adversary(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not _of_adversary(name)}


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that ``path`` names: itself, the newest of a run, one of audiovae's, or of the hub."""
    folder = Path(path)
    if folder.is_file():
        what = "a pickle, which can run code when loaded: refused" if _is_pickle(folder) else "a file"
        raise CheckpointError(f"model {path}: {what}. Wanted: a folder with model.safetensors and config.json.")
    if not folder.exists():
        own = PRETRAINED / str(path)
        return own if str(path) in bundled() else _from_hub(str(path))
    if (folder / "config.json").exists():
        return folder
    steps = run_checkpoints(folder)
    if not steps:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        also = f"; {pickles[0]} is a pickle and is refused" if pickles else ""
        raise CheckpointError(f"model {path}: no config.json and no checkpoint-* in this folder{also}.")
    return steps[-1]


def bundled() -> list[str]:
    """Names of the models that come with audiovae."""
    return sorted(p.parent.name for p in PRETRAINED.glob("*/config.json"))


def run_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def read_description(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint, its format checked."""
    try:
        description = json.loads((folder / "config.json").read_text())
        if description["format"] > FORMAT:
            raise CheckpointError(f"checkpoint {folder}: format {description['format']}, this audiovae reads up "
                                  f"to {FORMAT}: upgrade audiovae.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder}: config.json cannot be read ({error}).") from None
    return description


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; half precision is widened, since CPUs compute in single."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path}: missing.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: not a whole safetensors file ({error}).") from None
    return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in tensors.items()}


def write_tensors(path: Path, tensors: dict[str, Tensor], told: dict[str, str] | None = None) -> None:
    """Write tensors, and what is ``told`` of them, as a safetensors file; OSError where the system refuses, as any
    other file would, and readable by whom any other file is."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path, told)
    except safetensors.SafetensorError as error:  # it tells the system's reason as text only
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(mode)  # it was written for its owner's eyes alone


def fingerprint(model: nn.Module) -> str:
    """16 hex digits that change with any weight; codes carry it so that no other model decodes them.

    >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _line(error: Exception) -> str:
    """The beginning of a long message, on one line."""
    return " ".join(str(error).split())[:200]


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    return path.suffix in PICKLES or head[:2] == b"PK" or head[:1] == b"\x80"


def _from_hub(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        ours = f" and no model that comes with audiovae ({', '.join(bundled()) or 'there is none'})"
        raise CheckpointError(f"model {name}: no such folder{ours}.")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "config.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"model {name}: no such folder, and not had from the hub ({reason}).") from None
