"""A training run on disk: its checkpoints, its log, and how it is interrupted and resumed.

    run/log.jsonl                    one line a report: step, minutes, split, distortion, rate, ...
    run/events.out.*                 the same for TensorBoard
    run/samples/00001000/            what the model makes of held-out data
    run/checkpoint-00001000/         config.json, model.safetensors (averaged, for use),
                                     training.safetensors and state.json (to go on)
"""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from audiovae.checkpoint import read_description, read_tensors, run_checkpoints, save_model, write_tensors
from audiovae.config import Config, to_dict
from audiovae.errors import CheckpointError, OutputError
from audiovae.files import atomic_folder, json_lines
from audiovae.models import Model, ModelConfig
from audiovae.objectives import Objective
from audiovae.optim import Average, Rival


@dataclass
class State:
    """Where a run is: steps done, of them left out, minutes spent training, and whether Ctrl-C ended it."""

    step: int = 0
    minutes: float = 0.0
    skipped: int = 0
    interrupted: bool = False


class Run:
    """The folder of a run. Only the main process writes.

    Raises OutputError when the folder already holds checkpoints and ``resume`` is not asked, and
    CheckpointError when it is asked and there are none.
    """

    KEEP = 2  # the last good checkpoint stays while the next is written and after it

    def __init__(self, folder: Path, experiment: Config, resume: bool, main: bool):
        self.folder, self.experiment, self.main = folder, experiment, main
        if resume:
            last_checkpoint(folder)
        elif found := run_checkpoints(folder):
            raise OutputError(f"train: {folder} already holds a run (at {found[-1].name}): go on with "
                              f"`audiovae train --resume {folder}`, or name another folder.")

    def begin(self) -> None:
        """Make the folder: late, so that a run that cannot begin leaves none behind. Raises OutputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"train: {self.folder} cannot be made ({error.strerror}).") from None

    def save(self, model: Model, config: ModelConfig, objective: Objective, optimizer: torch.optim.Optimizer,
             average: Average, state: State, rival: Rival | None = None) -> None:
        """Write a checkpoint, whole or not at all, and remove those before the last."""
        if not self.main:
            return
        training = {f"weights/{n}": v for n, v in model.state_dict().items()}
        training |= {f"rate_control/{n}": v for n, v in objective.rate_control.state_dict().items()}
        training |= {f"average/{n}": v for n, v in average.state().items()}
        if objective.spectrum is not None:
            training |= {f"spectrum/{n}": v for n, v in objective.spectrum.state_dict().items()}
        training |= _flat("optimizer", optimizer)
        if rival is not None:
            training |= {f"adversary/{n}": v for n, v in rival.adversary.state_dict().items()}
            training |= _flat("adversary_optimizer", rival.optimizer)
        with atomic_folder(self.folder / f"checkpoint-{state.step:08d}", replace=True) as folder:
            save_model(folder, model, config, state={**model.state_dict(), **average.values},
                       experiment=to_dict(self.experiment), networks=objective.networks())
            write_tensors(folder / "training.safetensors", training)
            kept = {"step": state.step, "minutes": state.minutes, "skipped": state.skipped}
            (folder / "state.json").write_text(json.dumps(kept) + "\n")
        for old in run_checkpoints(self.folder)[:-self.KEEP]:
            shutil.rmtree(old)

    def restore(self, model: Model, objective: Objective, optimizer: torch.optim.Optimizer,
                average: Average, rival: Rival | None = None) -> State:
        """Put the last checkpoint's weights, rate control, optimizer, average and adversary back; its State.

        An adversary that the run did not have so far begins untrained, and a line on stderr says so.
        """
        folder = last_checkpoint(self.folder)
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "rate_control": {}, "average": {}, "optimizer": {},
                                                "spectrum": {}, "adversary": {}, "adversary_optimizer": {}}
        for name, value in read_tensors(folder / "training.safetensors").items():
            group, name = name.split("/", 1)
            groups[group][name] = value
        before = read_description(folder).get("networks", {})
        for name, title in objective.networks().items():
            if title != before.get(name, title):  # what is minimised would change on the way
                raise CheckpointError(f"checkpoint {folder}: its criterion '{name}' compared in the {before[name]}, "
                                      f"here it is the {title}: set its network as it was, or put the weights on disk.")
        try:
            model.load_state_dict(groups["weights"])
            objective.rate_control.load_state_dict(groups["rate_control"])
            objective.watch(model)
            if objective.spectrum is not None and groups["spectrum"]:
                objective.spectrum.load_state_dict(groups["spectrum"])
            average.restore(groups["average"])
            _put(optimizer, groups["optimizer"])
            if rival is not None and groups["adversary"]:
                rival.adversary.load_state_dict(groups["adversary"])
                _put(rival.optimizer, groups["adversary_optimizer"])
            elif rival is not None and self.main:
                print(f"audiovae: train: {folder} has no adversary: it begins untrained, all else goes on.",
                      file=sys.stderr)
            return State(**json.loads((folder / "state.json").read_text()))
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            line = " ".join(str(error).split())[:200]
            raise CheckpointError(f"checkpoint {folder}: does not fit this run ({line}).") from None

    def last_good(self) -> str:
        """How to go on from the last checkpoint, for messages."""
        found = run_checkpoints(self.folder)
        return f"last good checkpoint: {found[-1]}" if found else "no checkpoint had been written yet"


def _flat(group: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as tensors by name."""
    return {f"{group}/{index}/{key}": value for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()}


def _put(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`_flat`, the group's name left out."""
    saved: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/", 1)
        saved.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():  # a fused step reads both in the order they lie in memory
        for key, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter).copy_(value)


class Log:
    """Lines of JSON and TensorBoard events; on resuming, lines past the checkpoint are dropped.

    ``bits`` is what bits per dimension are of, which every line says that has them.
    """

    def __init__(self, folder: Path, step: int, main: bool, bits: str):
        self.main, self.bits = main, bits
        if not main:
            return
        path = folder / "log.jsonl"
        kept = []
        if path.exists():
            kept = [row for row in json_lines(path) if row["step"] <= step]
        self.file = path.open("w", buffering=1)
        self.file.writelines(json.dumps(row) + "\n" for row in kept)
        self.events = SummaryWriter(str(folder), purge_step=step)

    def __call__(self, state: State, split: str, numbers: dict[str, float]) -> None:
        if not self.main:
            return
        row: dict[str, float | str] = {"step": state.step, "minutes": round(state.minutes, 4), "split": split}
        row |= {k: float(f"{v:.6g}") for k, v in numbers.items()}
        if "bits_per_dimension" in numbers:
            row["bits_of"] = self.bits
        self.file.write(json.dumps(row) + "\n")
        for name, value in numbers.items():
            self.events.add_scalar(f"{split}/{name}", value, state.step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self.main:
            self.file.close()
            self.events.close()


class Clock:
    """Minutes of training, the same on every process, and when something timed is due."""

    def __init__(self, minutes: float, accelerator: Accelerator):
        self.accelerator = accelerator
        self.start = time.monotonic() - 60 * minutes
        self.began = time.monotonic()
        self.waited = 0.0
        self.marks: dict[str, float] = {}

    def minutes(self) -> float:
        return self._shared((time.monotonic() - self.start) / 60)

    def agree(self, flag: bool) -> bool:
        """True on every process once it is true on the first."""
        return bool(self._shared(float(flag)))

    def due(self, name: str, every: float) -> bool:
        """True once every ``every`` minutes, first after that long."""
        now = time.monotonic()
        if now - self.marks.setdefault(name, self.began) < 60 * every:
            return False
        self.marks[name] = now
        return True

    def wait_share(self) -> float:
        """The share of the time so far that the loop has waited for data."""
        return self.waited / max(time.monotonic() - self.began, 1e-9)

    def _shared(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        return broadcast(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)).item()


def resumed_experiment(folder: Path) -> dict[str, Any]:
    """The whole configuration of the run in ``folder``, from its last checkpoint."""
    return read_description(last_checkpoint(folder))["experiment"]


def last_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of the run in ``folder``; CheckpointError where there is none to go on from."""
    found = run_checkpoints(folder)
    if not found:
        raise CheckpointError(f"train: {folder} holds no checkpoint to resume from.")
    return found[-1]
