"""audiovae prior: teach a trained codec which codes follow which, so that its files get smaller."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from audiovae.audio.corpus import Corpus
from audiovae.checkpoint import find_checkpoint
from audiovae.codec import Codec
from audiovae.codes.prior import FILE
from audiovae.commands.arguments import parse
from audiovae.errors import ConfigError
from audiovae.prior_training import encode_split, measure, train_prior


@dataclass(frozen=True)
class Arguments:
    """Train a prior over the codes of a model on a corpus, and write it beside the model's weights.

    Example: audiovae prior corpora/vctk --model runs/small --minutes 5

    `audiovae encode` takes it from there by itself. Training is short: Ctrl-C leaves everything as it was.
    """

    corpus: tyro.conf.Positional[Path]
    """Corpus made by `audiovae prepare`: its train part is learnt from, its valid part measured."""
    model: Path
    """Checkpoint folder or training run."""
    minutes: float = 5.0
    """Time to train, after the corpus is encoded."""
    steps: int | None = None
    """Steps to train, instead of minutes: the same on every run."""
    hours: float = 10.0
    """Most hours of the train part to encode and learn from, drawn at random."""
    seed: int = 0
    """Another seed draws other recordings and another start."""
    replace: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write it over the prior that is there: code files made with that one can then no longer be read."""


def main(argv: list[str]) -> int:
    arguments = parse("prior", Arguments, argv)
    if min(arguments.minutes, arguments.hours) <= 0 or (arguments.steps is not None and arguments.steps < 1):
        raise ConfigError("--minutes, --hours and --steps want more than 0.")
    folder = find_checkpoint(arguments.model)
    if (folder / FILE).exists() and not arguments.replace:
        raise ConfigError(f"{folder / FILE} is there already, and code files made with it want it: copy the model to "
                          "another folder, or add --replace where there are none.")
    codec = Codec.from_pretrained(folder, prior=False)
    corpus = Corpus.open(arguments.corpus)
    held_out = encode_split(codec, corpus, "valid", hours=0.25)
    train = encode_split(codec, corpus, "train", arguments.hours, arguments.seed)
    prior = train_prior(codec, train.codes, arguments.minutes, arguments.steps, arguments.seed)
    table = measure(codec, prior, held_out)
    prior.facts["measured"] = "; ".join(f"{row[4]} bits a code of {row[2]} at {row[0]} kbit/s" for row in table.rows)
    prior.save(folder / FILE)
    seconds = sum(held_out.samples) / codec.sample_rate
    print(f"Bits a code, of {len(held_out.codes)} valid recordings, {seconds:.0f} s:\n\n{table.text()}\n")
    print(f"Learnt from {sum(train.samples) / codec.sample_rate / 3600:.1f} h; written to {folder / FILE}.")
    return 0
