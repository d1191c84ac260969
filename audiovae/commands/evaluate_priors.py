"""audiovae evaluate for priors over codes: nats a code beside counting."""

import json
from typing import TYPE_CHECKING

from tqdm import tqdm

from audiovae.checkpoint import load_model
from audiovae.code_data import AudioCodes, PictureCodes
from audiovae.commands.evaluate_images import own_data
from audiovae.errors import CheckpointError
from audiovae.evaluate_priors import evaluate_prior
from audiovae.files import atomic_file
from audiovae.models import PriorModel
from audiovae.report import Report, draw_loss

if TYPE_CHECKING:
    from audiovae.commands.evaluate import Arguments


def run(asked: "Arguments", settings: dict[str, str | list[str]]) -> int:
    """Measure, print the table, and write evaluation.json and evaluation.html where an output is named."""
    model = load_model(asked.model)
    source = own_data(asked.model, model.data, settings)
    assert isinstance(model, PriorModel) and isinstance(source, AudioCodes | PictureCodes)
    ours, theirs = model.data.codes, source.spec.codes
    if ours != theirs:
        raise CheckpointError(f"prior {asked.model} is over {ours}, but its data now gives {theirs}: was the model "
                              "of the codes trained on since? Name the one it was with --data.model.")
    name = "prior"
    if asked.weights == "int8":
        model, name = model.quantized(), "prior, int8 weights"
    with tqdm(unit="example", disable=None) as bar:
        result = evaluate_prior(model, source, asked.split, asked.limit, bar.update)
    table = result.table(name)
    print(table.text())
    if asked.output is not None:
        with atomic_file(asked.output / "evaluation.json") as temporary:
            temporary.write_text(json.dumps({"measures": json.loads(table.json())}, indent=1) + "\n")
        report = Report("Evaluation", lead=f"{asked.model}, a {name}, on the {asked.split} part of its data.")
        report.table(table)
        log = asked.model / "log.jsonl"
        if log.exists():
            report.figure("Training: bits a code", draw_loss(log, ["bits_per_dimension"]))
        report.write(asked.output / "evaluation.html")
        print(f"{len(result.codes)} examples measured; evaluation.json and evaluation.html are in {asked.output}.")
    return 0
