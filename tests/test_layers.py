"""A file imports only from layers above its own; a module that is in no layer fails too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    ("errors", "shapes", "config", "files", "download", "heap", "interrupt", "parallel", "seeds", "distributions",
     "information"),
    ("audio", "image", "nn"),
    ("encoders", "bottlenecks", "decoders", "autoregressive", "source_filter", "reference", "likelihoods", "corruption",
     "label_adversary", "rate_control", "rate_control_config", "criteria", "criteria_config", "discriminators",
     "objectives"),
    ("priors",),
    ("models",),
    ("blocks", "batches", "checkpoint", "codes", "rates", "closest_voice", "codec", "level_codec", "picture_codec",
     "streams", "transcode", "convert", "differential", "voices", "enrolment", "equalisation", "retrieval", "transport",
     "export", "latents", "lm", "shards", "engines", "corpus_encoding", "picture_encoding", "generate"),
    ("metrics", "data", "code_data", "voice_data", "spectrogram_data", "alarms", "optim", "preview", "run", "train",
     "prior_training", "report", "gallery", "evaluate", "evaluate_images", "evaluate_priors",
     "songs", "picture_samples", "spectrogram_samples"),
    ("cli", "commands"),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(source: str) -> set[str]:
    """The parts of audiovae that a source names in any import, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "audiovae" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("audiovae.") and "__" not in n}
    return found


def downward(level: int, source: str) -> set[str]:
    """Names imported from a layer below ``level``."""
    return {name for name in imports(source) if LEVEL.get(name, 99) > level}


ROOTS = {ROOT / "audiovae/__init__.py"}  # the name and version of the whole, and its front door
MODULES = [p for p in sorted((ROOT / "audiovae").rglob("*.py")) if p not in ROOTS]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_point_up(path):
    part = path.relative_to(ROOT / "audiovae").parts[0].removesuffix(".py")
    assert part in LEVEL, f"{part} is in no layer: add it to the list above"
    assert not downward(LEVEL[part], path.read_text())


@pytest.mark.parametrize("path", sorted((ROOT / "data").glob("*.py")), ids=lambda p: p.name)
def test_data_scripts_import_audio_and_image_only(path):
    assert imports(path.read_text()) <= {"audio", "image", "errors", "files"}


def test_an_arrow_that_points_down_is_seen():
    assert downward(LEVEL["bottlenecks"], "def f():\n    from audiovae.train import train") == {"train"}
    assert downward(LEVEL["bottlenecks"], "from audiovae import codec") == {"codec"}
    assert not downward(LEVEL["bottlenecks"], "from audiovae.nn.conv import FiLM\nimport torch")
