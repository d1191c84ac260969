"""How much decoded speech sways in loudness in step with a codec's frames, which is heard as a hum, beside its source.

    python benchmarks/hum.py "LibriSpeech=recordings/ls*/*" emodb --models speech-16k runs/speech-16k --kbps 3

Depths of modulation in % of the mean energy, over all frames of all recordings, at the frame rate and its multiples
(audiovae.criteria.FrameRate); the last column is the root of the sum of squares of what the source does not have. What
is the recordings' own falls with the number of frames, so that the source's row tells what chance leaves.
"""

import argparse

import torch
from rate_quality import SPEECH, clips
from tqdm import tqdm

from audiovae.checkpoint import DEFAULT
from audiovae.codec import Codec
from audiovae.criteria import FrameRate
from audiovae.report import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="[NAME=]INPUT")
    parser.add_argument("--models", nargs="+", default=[DEFAULT])
    parser.add_argument("--kbps", type=float)
    parser.add_argument("--limit", type=int, default=25, help="recordings of a group, 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    waves = [clip.load() for clip in clips(args.inputs, args.limit, args.seed, SPEECH)]
    rows = []
    for name in args.models:
        codec = Codec.from_pretrained(name, kbps=args.kbps)
        criterion = FrameRate(codec.hop)
        said = [codec.decode(codec.encode(wave, SPEECH)) for wave in tqdm(waves, desc=name, disable=None)]
        own, its = (criterion.depths(torch.cat([x[:len(x) // codec.hop * codec.hop] for x in sounds]).view(1, 1, -1))
                    for sounds in (waves, said))
        for what, depths in (("source", own), (name, its)):
            cosines, sines = depths.chunk(2)
            rows.append((what, *(f"{100 * depth:.1f}" for depth in torch.hypot(cosines, sines).tolist()),
                         f"{100 * float((depths - own).norm()):.1f}"))
    rates = [f"{codec.sample_rate / codec.hop * (k + 1):.0f} Hz" for k in range(criterion.harmonics)]
    print(Table(("", *rates, "not the source's"), rows).text())
    print(f"\n{len(waves)} recordings, {sum(map(len, waves)) / SPEECH / 60:.1f} minutes")


if __name__ == "__main__":
    main()
