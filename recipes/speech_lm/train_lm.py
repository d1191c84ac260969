"""Train a small causal transformer on the codes of speech and let it speak: delay pattern, Q heads, plain torch."""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from audiovae import Codec
from audiovae.audio.io import write_audio
from audiovae.lm import Utterances, Vocabulary


class SpeechLM(nn.Module):
    def __init__(self, rows, size, dim, depth, context):
        super().__init__()
        self.into = nn.ModuleList(nn.Embedding(size, dim) for _ in range(rows))
        self.place = nn.Embedding(context, dim)
        layer = nn.TransformerEncoderLayer(dim, max(1, dim // 64), 4 * dim, batch_first=True, norm_first=True)
        self.stack = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.out = nn.ModuleList(nn.Linear(dim, size) for _ in range(rows))

    def forward(self, tokens):  # (B, Q, S) -> logits (B, Q, S, size) of the tokens that follow
        h = sum(into(tokens[:, q]) for q, into in enumerate(self.into)) + self.place.weight[:tokens.shape[-1]]
        h = self.stack(h, nn.Transformer.generate_square_subsequent_mask(tokens.shape[-1]), is_causal=True)
        return torch.stack([out(h) for out in self.out], 1)

    @torch.no_grad()
    def sample(self, vocabulary, steps, temperature=0.9):
        tokens = torch.full((1, len(self.out), 1), vocabulary.bos)
        for place in range(1, steps + len(self.out)):
            legal = torch.from_numpy(vocabulary.legal(place)) & (torch.arange(vocabulary.size) != vocabulary.eos)
            logits = (self(tokens)[0, :, -1] / temperature).masked_fill(~legal, -torch.inf)
            tokens = torch.cat([tokens, logits.softmax(-1).multinomial(1)[None]], -1)
        return tokens[0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("codes", None), ("--model", "speech-16k"), ("--kbps", 0.0), ("--output", "sample.wav"),
                          ("--minutes", 2.0), ("--dim", 256), ("--depth", 4), ("--batch", 16), ("--steps", 150),
                          ("--lr", 1e-3)):
        parser.add_argument(name, default=default, type=str if default is None else type(default))
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    codec = Codec.from_pretrained(args.model, args.kbps or None)
    data = Utterances(args.codes, codec.prior)
    vocabulary, rows = Vocabulary(codec.num_codes, "delay"), len(codec.num_codes)
    model = SpeechLM(rows, vocabulary.size, args.dim, args.depth, context=args.steps + rows + 1)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.98))
    start, step, share, batches = time.monotonic(), 0, 0.0, iter(())
    while share < 1:  # of the time
        if (batch := next(batches, None)) is None:
            batches = data.batches(vocabulary, args.batch, seed=step, steps=args.steps)
            continue
        logits, target = model(batch.tokens[..., :-1]), batch.tokens[..., 1:]
        loss = F.cross_entropy(logits[target < vocabulary.bos], target[target < vocabulary.bos])  # of codes alone
        optimizer.param_groups[0]["lr"] = args.lr * min(1, (step + 1) / 50) * (1 - 0.9 * share)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, share = step + 1, (time.monotonic() - start) / (60 * args.minutes)
        if step % 20 == 1 or share >= 1:
            print(f"step {step}: {loss.item() / 0.6931:.2f} bits a code, of {batch.tokens.shape}", flush=True)
    codes = vocabulary.to_codes(model.eval().sample(vocabulary, args.steps), codec.header())
    write_audio(args.output, codec.decode(codes), codec.sample_rate)
    print(f"{args.output}: {codes.seconds:.2f} s after {step} steps.")


if __name__ == "__main__":
    main()
