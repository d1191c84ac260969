"""The training loop, once, for every model: written out, on ``accelerate``.

Every random draw of a step is seeded by (seed, step, process), so a run that stops and goes on is the
run that never stopped, bit for bit on one CPU, whenever its length is given in steps.
"""

import itertools
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from audiovae.alarms import collapse_alarm, steep_alarm
from audiovae.checkpoint import load_weights
from audiovae.code_data import AudioCodes, PictureCodes
from audiovae.config import Config, Count, Decay, Positive, Weight, Whole
from audiovae.data import AudioData, DataConfig, Source, binarized, bits_of
from audiovae.discriminators import AdversaryConfig, last_layer
from audiovae.errors import ConfigError, ShapeError, TrainingError
from audiovae.heap import keep_freed
from audiovae.interrupt import Interrupt
from audiovae.likelihoods import Likelihood
from audiovae.models import Autoencoder, AutoencoderConfig, Model, ModelConfig, Multires, PriorModel
from audiovae.nn.bfloat16 import Precision
from audiovae.objectives import Loss, Objective, ObjectiveConfig, joined
from audiovae.optim import Average, Rival, apart, clip, hold_all_but_encoder, learning_rate, parameter_groups
from audiovae.preview import write_samples
from audiovae.run import Clock, Log, Run, State
from audiovae.seeds import reseed
from audiovae.shapes import Batch, Output


@dataclass(frozen=True)
class TrainConfig(Config):
    """How long and how: give ``steps``, ``minutes``, or both (the first reached ends the run).

    init : the model whose weights training begins with, as ``--model`` names one; None for new ones. A resumed run
        goes on from its own.
    lr, encoder_lr : peak learning rates of the whole model and of its encoder (None: the same), with which a flow of
        the posterior and the classifier of a semi-supervised model go.
    embedding_lr : peak learning rate of tables of learned vectors, codes' and names' (None: ``lr``). A row gets a
        gradient only when it is looked up: at ten times ``lr`` a prior over codes learns in a fraction of the steps,
        and a small corpus sooner by heart.
    warmup : share of the budget over which the rate rises from 0.
    ema : decay of the averaged weights, which are what a checkpoint offers for use; 0 for none.
    level : of a multi-resolution model the one to train, "each" for one after the other; left out, all in every step.
    encoder_steps : steps of the encoder alone, and what goes with it, before each step of all, against a posterior that
        lags behind (He 2019, section 4); the others' weights and optimizer stand still meanwhile.
    skip_grad_norm : norm of the gradient above which a step is left out, before ``clip``; the log counts them as
        ``skipped``. None leaves none out.
    accumulate : micro-batches a step. GECO's multiplier and the warm-up of a semi-supervised model go on with each.
    channels_last : whether maps (B, C, H, W) lie in memory as (B, H, W, C): most convolutions over pictures are then
        faster, and sums rounded in another order.
    validate_minutes, checkpoint_minutes : time between validations and between checkpoints.
    """

    steps: Count | None = None
    minutes: Positive | None = None
    init: str | None = None
    lr: Positive = 1.5e-3
    encoder_lr: Positive | None = None
    embedding_lr: Positive | None = None
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    weight_decay: Weight = 0.01
    warmup: Decay = 0.02
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: Positive = 1.0
    skip_grad_norm: Positive | None = None
    ema: Decay = 0.99
    level: Whole | Literal["each"] | None = None
    encoder_steps: Whole = 0
    accumulate: Count = 1
    precision: Precision = "no"
    channels_last: bool = False
    log_every: Count = 10
    validate_minutes: Weight = 2.0
    checkpoint_minutes: Weight = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Experiment(Config):
    """A whole training run: what a recipe's TOML file says, and what ``audiovae train`` takes."""

    data: DataConfig = AudioData()
    model: ModelConfig = AutoencoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    adversary: AdversaryConfig | None = None


class Trainee(nn.Module):
    """A model and its objective as one module: a process group sees one forward pass a step.

    judged : whether an adversary has a say; the loss then carries the estimate, and no bound.
    """

    def __init__(self, model: Model, objective: Objective, judged: bool = False):
        super().__init__()
        self.model, self.objective, self.judged = model, objective, judged

    def forward(self, batch: Batch, progress: float) -> Loss:
        output = self.model(batch.x, batch.condition, self.objective.samples)
        with torch.autocast(batch.x.device.type, enabled=False):  # losses are sums of many: single precision
            if isinstance(self.model, Multires):
                loss = joined({level: self._loss(its, batch.x, self.model.each[level].likelihood, progress)
                               for level, its in output.apart.items()})
            else:
                loss = self._loss(output, batch.x, self.model.likelihood, progress)
            penalty = self.objective.weight_penalty(self.model, math.prod(batch.x.shape[1:]))
            if penalty is not None:
                loss.total, loss.terms["weights"] = loss.total + penalty, penalty.detach()
            if self.judged:
                loss.estimate = self.model.likelihood.mean(output.params)
                loss.dims = loss.iwae = None
            return loss

    def _loss(self, output: Output, x: Tensor, likelihood: Likelihood, progress: float) -> Loss:
        output.params = output.params.float()
        return self.objective(output, x, likelihood, progress)


def build(experiment: Experiment) -> tuple[Source, Model]:
    """The source of batches and the untrained model of an experiment, both seeded by ``train.seed``."""
    seed = experiment.train.seed
    source = experiment.data.build(seed)
    torch.manual_seed(seed)
    model = experiment.model.build(source.spec)
    source.fit(model.hop)
    if isinstance(model, PriorModel) and isinstance(source, AudioCodes | PictureCodes):
        model.prior.count(lambda split: (codes for _, codes in source.indexed(split)))
    return source, model


def build_rival(experiment: Experiment, model: Model, device: torch.device) -> Rival | None:
    """The adversary with its optimizer, None without one; ConfigError where no reconstruction is made in one pass."""
    config = experiment.adversary
    if config is None:
        return None
    if not isinstance(model, Autoencoder) or model.decoder.autoregressive:
        raise ConfigError("adversary wants an autoencoder whose decoder gives the reconstruction in one pass: leave "
                          "the table [adversary] out.")
    if experiment.objective.samples > 1:
        raise ConfigError("adversary judges one reconstruction an example: set objective.samples to 1, or leave the "
                          "table [adversary] out.")
    adversary = config.build(model.data).to(device)
    groups = [{"params": list(adversary.parameters()), "lr": config.lr, "base_lr": config.lr}]
    optimizer = torch.optim.AdamW(groups, fused=True, betas=config.betas, weight_decay=experiment.train.weight_decay)
    return Rival(adversary, optimizer, last_layer(model.decoder), config.starts)


def train(experiment: Experiment, folder: Path, resume: bool = False) -> State:
    """Train ``experiment`` in ``folder``: checkpoints, ``log.jsonl``, TensorBoard events and samples.

    Returns where it ended; ``interrupted`` is set when Ctrl-C ended it early, after saving.

    Raises
    ------
    ConfigError
        If no budget is given or a number is not above 0, or the parts do not fit.
    OutputError
        If ``folder`` holds a run and ``resume`` is not set, or cannot be written.
    TrainingError
        If the loss is no longer finite; names the step, the batch and the last good checkpoint.
    """
    config = experiment.train
    if config.steps is None and config.minutes is None:
        raise ConfigError("train: no budget; set train.steps or train.minutes.")
    for name in ("steps", "minutes", "lr", "clip", "accumulate", "log_every"):
        value = getattr(config, name)
        if value is not None and not value > 0:  # a budget below 0 would never end
            raise ConfigError(f"train: {name} wants a number above 0, got {value}.")
    keep_freed()
    AcceleratorState._reset_state()  # else the precision of a run before in this process would be kept
    accelerator = Accelerator(
        mixed_precision=config.precision, gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)])
    if config.encoder_steps and experiment.model.kind in ("density", "multires"):
        raise ConfigError("train: encoder_steps wants a model with an encoder: leave it at 0.")
    if config.level is not None and experiment.model.kind != "multires":
        raise ConfigError(f"train: level wants a model of kind 'multires', this is '{experiment.model.kind}': leave it "
                          "out.")
    main, rank = accelerator.is_main_process, accelerator.process_index
    source, model = build(experiment)
    run = Run(folder, experiment, resume, main)
    if config.init is not None and not resume:
        load_weights(model, config.init)
    objective = experiment.objective.build(source.spec.sample_rate, source)
    rates = parameter_groups(model, config.lr, config.encoder_lr, config.embedding_lr)
    optimizer = torch.optim.AdamW(rates, fused=True, betas=config.betas, weight_decay=config.weight_decay)
    model.to(accelerator.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    average = Average(model, config.ema)
    rival = build_rival(experiment, model, accelerator.device)
    state = run.restore(model, objective, optimizer, average, rival) if resume else State()
    trainee = accelerator.prepare(Trainee(model, objective, judged=rival is not None))
    average.watch()
    players, groups, weights = [trainee.train()], optimizer.param_groups, apart(model, trainee)
    if rival is not None:
        adversary, against = accelerator.prepare(rival.adversary), rival.optimizer
        players, groups = [trainee, adversary], [*groups, *against.param_groups]

    clock = Clock(state.minutes, accelerator)
    alone = {"initializer": torch.set_num_threads, "initargs": (1,)}  # a team of its own would be in the step's way
    bits = bits_of(model, source.spec, binarized(source))
    run.begin()
    with (Log(folder, state.step, main, bits) as log, Interrupt() as interrupt, ThreadPoolExecutor(1, **alone) as ahead,
          tqdm(total=config.steps, initial=state.step, unit="step", disable=None if main else True) as bar):
        upcoming, validated = ahead.submit(source.batch, state.step * config.accumulate, rank), -1
        for step in itertools.count(state.step):
            progress = _progress(config, step, clock.minutes())
            if progress >= 1 or clock.agree(interrupt.caught):
                break
            if isinstance(model, Multires):
                progress = model.take_turn(config.level, progress)
            reseed(accelerator.device, config.seed, step, rank)
            for group in groups:
                group["lr"] = group["base_lr"] * learning_rate(config.schedule, config.warmup, progress)
            playing = rival if rival is not None and step >= rival.starts else None
            for micro in range(config.accumulate):
                asked = time.perf_counter()
                batch = upcoming.result().to(accelerator.device)
                clock.waited += time.perf_counter() - asked
                upcoming = ahead.submit(source.batch, step * config.accumulate + micro + 1, rank)
                with accelerator.accumulate(*players):
                    try:
                        loss = trainee(batch, progress)
                    except ShapeError as error:  # a part was handed what it cannot use, NaN for instance
                        raise _stopped(step, str(error), batch, run) from error
                    if playing is not None:
                        playing.join(loss, batch.x)
                    if not math.isfinite(loss.total.item()):
                        raise _stopped(step, _not_finite(loss), batch, run)
                    accelerator.backward(loss.total)
                    if playing is not None:
                        doubt = adversary(batch.x, loss.estimate)
                        loss.terms["discriminator"] = doubt.detach()
                        accelerator.backward(doubt)
            if step % (config.encoder_steps + 1) < config.encoder_steps:
                hold_all_but_encoder(optimizer)
            grad_norm = math.hypot(*(clip(its, config.clip) for its in weights))
            if _too_steep(config, grad_norm):
                state.skipped += 1
            else:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if playing is not None:
                clip(list(adversary.parameters()), config.clip)
                against.step()
                against.zero_grad(set_to_none=True)
            average.update()
            state.step, state.minutes = step + 1, clock.minutes()

            bar.update()
            if state.step % config.log_every == 0:
                bar.set_postfix_str(f"{state.minutes:.1f} min, loss {loss.total.item():.3f}")
                log(state, "train", loss.numbers() | {
                    "grad_norm": grad_norm, "lr": optimizer.param_groups[0]["lr"],
                    "data_wait": clock.wait_share()} | ({"skipped": state.skipped} if config.skip_grad_norm else {}))
            if clock.due("validate", config.validate_minutes) and main:
                validate(accelerator.unwrap_model(trainee), source, average, log, state, folder)
                validated = state.step
            if clock.due("checkpoint", config.checkpoint_minutes):
                run.save(model, experiment.model, objective, optimizer, average, state, rival)
        state.interrupted = interrupt.caught
        if main and validated != state.step:
            validate(accelerator.unwrap_model(trainee), source, average, log, state, folder)
        run.save(model, experiment.model, objective, optimizer, average, state, rival)
    return state


@torch.no_grad()
def validate(trainee: Trainee, source: Source, average: Average, log: Log, state: State, folder: Path) -> None:
    """Log the mean objective on held-out batches with the averaged weights, and write samples."""
    batches = source.validation()
    device = next(trainee.parameters()).device
    trainee.eval()
    with average.applied():
        rows = [trainee(batch.to(device), progress=1.0).numbers() for batch in batches]
        numbers = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        log(state, "valid", numbers)
        for alarm in filter(None, (collapse_alarm(numbers, state.step), steep_alarm(state.skipped, state.step))):
            tqdm.write(f"audiovae: train: step {state.step}: {alarm}", file=sys.stderr)
        write_samples(folder / "samples" / f"{state.step:08d}", trainee.model, batches[0].to(device))
    trainee.train()


def _progress(config: TrainConfig, step: int, minutes: float) -> float:
    """The share of the budget used, by whichever of steps and minutes is further along."""
    return max(step / config.steps if config.steps else 0.0, minutes / config.minutes if config.minutes else 0.0)


def _too_steep(config: TrainConfig, grad_norm: float) -> bool:
    """Whether a step is to be left out; a norm that is no number is above every limit."""
    return config.skip_grad_norm is not None and not grad_norm <= config.skip_grad_norm


def _not_finite(loss: Loss) -> str:
    terms = (f"{name} {value:.4g}" for name, value in loss.numbers().items() if not math.isfinite(value))
    return f"the loss is not finite ({', '.join(terms)}); try a lower train.lr."


def _stopped(step: int, reason: str, batch: Batch, run: Run) -> TrainingError:
    files = ", ".join(batch.names[:8]) + (" ..." if len(batch.names) > 8 else "")
    return TrainingError(f"stopped at step {step}: {reason} The batch: {files}; {run.last_good()}.")
