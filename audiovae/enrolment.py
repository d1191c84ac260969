"""Enrolment: a decoder that has practised one voice, on recordings of it, for half a minute.

Encoder, codebooks and reference encoder stay as they are, so what other voices sound like does not change: the voice's
own weights are kept apart, as what is added to the model's. It practises on codes of the recordings, of what the model
makes of them, and of both with their formants moved: what it is to speak later are latents of others' speech, and of
its own once it is said.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from audiovae.audio.excitation import NOISE, Excitation
from audiovae.audio.pitch import prosody
from audiovae.codec import Codec
from audiovae.criteria import LogMelL1, MelResolution
from audiovae.models import Autoencoder
from audiovae.shapes import Condition
from audiovae.voices import Voice, hear

STEPS = 150
BATCH, SECONDS = 8, 1.0  # crops a step, and their length
WEIGHTS_RATE, VECTOR_RATE = 3e-4, 3e-3
MOVED = 4  # encodings of each recording, and of what the model makes of it, with warped mel bands
RESOLUTIONS = tuple(MelResolution(n, n // 4, m) for n, m in ((128, 20), (256, 40), (512, 64), (1024, 80), (2048, 160)))


def enroll(model: Autoencoder, recordings: Iterable[Tensor], steps: int = STEPS, seed: int = 0) -> Voice:
    """A voice (recordings (T,) at the model's rate) with decoder weights of its own.

    ``steps`` of AdamW on random crops: what the model makes of the voice's own codes is brought nearer to the
    recordings, by the distance of log-mel spectra that it was trained with. The same recordings and seed give the same
    voice. Raises VoiceError where there is too little speech.
    """
    waves = list(recordings)
    voice = hear(model, waves)
    rate, frame, hop = model.data.sample_rate or 0, model.data.prosody, model.hop
    size = round(SECONDS * rate / hop)
    codec, listener = Codec(model), copy.deepcopy(model.encoder).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pieces = [_heard(codec, listener, voice.vector, wave, size) for wave in waves if len(wave) >= hop]
    decoder = copy.deepcopy(model.decoder).train().requires_grad_(True)
    vector = voice.vector.clone().requires_grad_(True)
    criterion = LogMelL1(rate, RESOLUTIONS)
    optimizer = torch.optim.AdamW([{"params": list(decoder.parameters()), "lr": WEIGHTS_RATE},
                                   {"params": [vector], "lr": VECTOR_RATE}], betas=(0.9, 0.98), weight_decay=0.0)
    dice = np.random.default_rng(seed)
    share = np.array([len(piece[0]) for piece in pieces], float)
    for step in tqdm(range(steps), unit="step", desc="enrolment", disable=None):
        rows = []
        for which in dice.choice(len(pieces), BATCH, p=share / share.sum()):
            wave, versions, told, pitch = pieces[which]
            z = versions[int(dice.integers(len(versions)))]
            first = int(dice.integers(z.shape[-1] - size + 1))
            its = slice(first * hop // frame, (first + size) * hop // frame)
            excitation = Excitation(pitch[its], rate, frame, dice.random(), int(dice.integers(NOISE)))
            rows.append((wave[first * hop:(first + size) * hop], z[:, first:first + size], told[:, its],
                         excitation(0, len(pitch[its]))))
        target, z, told, excitation = (torch.stack(column) for column in zip(*rows, strict=True))
        condition = Condition(prosody=told, excitation=excitation)
        said = model.likelihood.mean(decoder(z, vector.expand(BATCH, -1), condition))
        loss = criterion(said, target[:, None])
        for group, peak in zip(optimizer.param_groups, (WEIGHTS_RATE, VECTOR_RATE), strict=True):
            group["lr"] = peak * min(1.0, 2 * (1 - step / steps))  # straight down over the second half
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    own = dict(model.decoder.named_parameters())
    weights = {name: (value - own[name]).detach() for name, value in decoder.named_parameters()}
    seconds = sum(map(len, waves)) / rate  # it practised on all, of which a voice is heard in the beginning
    return replace(voice, vector=vector.detach(), seconds=seconds, weights=weights)


@torch.no_grad()
def _heard(codec: Codec, listener: nn.Module, vector: Tensor, wave: Tensor, least: int
           ) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Of a recording at least ``least`` latent steps long: samples, latents (V, D, L), prosody told (3, N), pitch (N,).

    ``listener`` is an encoder that warps the bands of each of a batch by a draw of its own.
    """
    model, rate, hop = codec.model, codec.sample_rate, codec.hop
    steps = max(least, -(-len(wave) // hop))
    wave = torch.nn.functional.pad(wave, (0, steps * hop - len(wave)))
    found = prosody(wave, rate, model.data.prosody)
    excitation = Excitation(found.pitch, rate, model.data.prosody)(0, len(found.pitch))
    plain = model.hidden(wave[None, None])
    said = model.decode(codec.quantize(plain), Condition(embedding=vector[None], prosody=found.tensor()[None],
                                                         excitation=excitation[None]))
    hidden = torch.cat([plain, listener(torch.stack([wave[None], said[0]]).repeat(MOVED, 1, 1))])
    return wave, model.bottleneck.decode(codec.quantize(hidden)), found.tensor(), found.pitch
