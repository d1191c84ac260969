"""audiovae sample for pictures: level by level from priors, by a model's own prior, and what is refused."""

import json

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from audiovae.checkpoint import fingerprint, load_model, save_model
from audiovae.cli import main
from audiovae.codes import Codes
from audiovae.config import from_dict
from audiovae.generate import Request, open_priors
from audiovae.image.digits import digits
from audiovae.models import HierarchicalConfig, LevelConfig, ModelConfig, PriorConfig
from audiovae.picture_samples import decode, draw_codes, likeliest, open_decoder
from audiovae.priors import Drawing, PixelCNNPriorConfig, ToldConfig
from audiovae.shapes import CodeSpec, Condition, DataSpec

LABELS = tuple("0123456789")
PICTURES = DataSpec(channels=1, dims=2, size=(8, 8), levels=17, labels=LABELS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VQ-VAE-2 of hops 2 and 4 and a prior for each level, a prior of another model, a VAE: untrained, but whole."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    rows = 2 * (LevelConfig(strides=(2,), num_codes=8, dim=4, width=8, depth=1),)

    def keep(name, config, spec, **experiment):
        (folder / name).mkdir()
        save_model(folder / name, config.build(spec), config, experiment=experiment)

    keep("model", HierarchicalConfig(levels=rows), PICTURES)
    model = fingerprint(load_model(folder / "model"))
    for name, level, its, size in (("bottom", 0, model, (4, 4)), ("top", 1, model, (2, 2)),
                                   ("alien", 1, "0123456789abcdef", (2, 2)), ("large", 1, model, (3, 2))):
        codes = CodeSpec((8,), its, level, (2, 4)[level], None, () if level else (8,), 1 if level else 2)
        config = PriorConfig(prior=PixelCNNPriorConfig(width=8, depth=1, attend=level, heads=2,
                                                       told=ToldConfig(upper_width=8, upper_depth=1)))
        data = {"kind": "codes", "model": str(folder / "model"), "pictures": {"kind": "digits"}, "level": level}
        keep(name, config, DataSpec(1, 2, size=size, labels=LABELS, codes=codes), data=data, train={"seed": 0})
    part = {"kind": "mlp", "widths": [8]}
    vae = from_dict(ModelConfig, {"kind": "autoencoder", "encoder": part, "decoder": part, "latent": "vector",
                                  "bottleneck": {"kind": "gaussian", "dim": 2}, "likelihood": {"kind": "bernoulli"}})
    keep("vae", vae, PICTURES, data={"kind": "digits"}, train={"seed": 0})
    return folder


def sample(trained, names, *words):
    return main(["sample", *(str(trained / name) for name in names), *map(str, words)])


@torch.no_grad()
def test_pictures_are_written_exactly_with_codes_and_a_page(trained, tmp_path, capsys):
    out = tmp_path / "new"
    assert sample(trained, ["bottom", "top"], "-o", out, "--count", 10, "--label", "3", "--temperature", 0.9, 1.2,
                  "--top-k", 4) == 0
    told = capsys.readouterr().out
    assert "level 1 at temperature 0.9, top_k 4 and level 0 at temperature 1.2" in told and "all levels" in told
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"{n:04d}.{kind}" for n in range(10) for kind in ("codes", "png")), "pictures.html", "pictures.png"]
    files = [Codes.load(out / f"{n:04d}.codes") for n in range(10)]
    codes = {level: torch.from_numpy(np.stack([its.maps[level] for its in files])) for level in (0, 1)}
    assert codes[0].shape == (10, 1, 4, 4) and codes[1].shape == (10, 1, 2, 2)
    x = load_model(trained / "model").decode_levels([codes[0], codes[1]])
    assert np.array_equal((imread(out / "0004.png") * 255).round(), x[4, 0].clamp(0, 1).mul(255).round().numpy())
    words = [out / "0004.codes", "-o", tmp_path / "again.png", "--model", trained / "model"]
    assert main(["decode", *map(str, words)]) == 0
    assert np.array_equal(imread(tmp_path / "again.png"), imread(out / "0004.png"))
    whole = imread(out / "pictures.png")
    assert whole.shape == (16, 64) and np.array_equal(whole[8:, 8:16], imread(out / "0009.png"))
    page = (out / "pictures.html").read_text()
    assert all(text in page for text in ("Samples", "What each level holds", "What a picture takes", "of &#39;3&#39;"))


def test_a_picture_does_not_depend_on_the_others_and_is_drawn_by_the_prior_itself(trained):
    priors = open_priors([trained / "bottom", trained / "top"])
    drawings = {0: Drawing(guidance=2), 1: Drawing()}
    many, few = (draw_codes(priors, Request(1, count, batch, 5, label="7", drawings=drawings))
                 for count, batch in ((5, 5), (3, 2)))
    assert all(torch.equal(many[level][:3], few[level]) for level in (0, 1))
    again = draw_codes(priors, Request(1, 3, 3, 5, label="7", drawings=drawings), {1: few[1]}, again=1)
    assert torch.equal(again[1], few[1]) and not torch.equal(again[0], few[0])
    likely = draw_codes(priors, Request(1, 3, 3, 5, drawings={0: Drawing(temperature=0)}), {1: few[1]})[0]
    bottom = priors[1].load()
    first = bottom.prior.eval().network(  # the likeliest first code, by the network itself
        likely, spatial=bottom.prior._told(Condition(upper=few[1]), 3, (4, 4)))[:, :, 0, 0].argmax(1)
    assert torch.equal(likely[:, 0, 0, 0], first)


@torch.no_grad()
def test_the_top_alone_has_the_mean_below_it(trained):
    model = open_decoder(trained / "model", open_priors([trained / "top"]))
    codes = {1: torch.randint(8, (2, 1, 2, 2))}
    assert torch.equal(decode(model, codes), model.reveal([None, codes[1]]))


@torch.no_grad()
def test_one_prior_alone_and_a_model_with_its_own_prior_write_the_same_files(trained, tmp_path, capsys):
    assert sample(trained, ["top"], "-o", tmp_path / "top", "--count", 2) == 0
    assert sample(trained, ["vae"], "-o", tmp_path / "vae", "--count", 2, "--seed", 4) == 0
    assert "from the model's own prior" in capsys.readouterr().out
    for name in ("top", "vae"):
        assert {"0001.png", "pictures.png", "pictures.html"} <= {path.name for path in (tmp_path / name).iterdir()}
    x = load_model(trained / "vae").sample(2, generator=torch.Generator().manual_seed(4))
    wanted = x[1, 0].clamp(0, 1).mul(255).round().numpy()
    assert np.array_equal((imread(tmp_path / "vae/0001.png") * 255).round(), wanted)


def test_rejection_keeps_those_of_the_label(trained):
    x, y = digits("test")
    description = json.loads((trained / "top/config.json").read_text())
    some = torch.cat([(y == 3).nonzero()[:5], (y != 3).nonzero()[:15]])[torch.randperm(20)].flatten()
    keep, sentence = likeliest(x[some], description, Request(1, 5, label="3"), reject=4)
    assert (y[some][keep] == 3).float().mean() >= 0.8  # a fifth of them, by chance
    assert keep.tolist() == sorted(keep.tolist()) and "digits classifier" in sentence and "5 of 20" in sentence
    assert likeliest(x, description, Request(1, 5), reject=1)[0].tolist() == list(range(len(x)))


@pytest.mark.parametrize(("names", "words", "said"), [
    (["alien"], ["--codec", "{model}"], "0123456789abcdef"),
    (["large"], [], "pictures of (12, 8)"),
    (["top", "alien"], [], "take priors of one model"),
    (["bottom"], [], "from the slowest"),
    (["top"], ["--label", "eleven"], "knows no 'eleven'"),
    (["vae"], ["--label", "3"], "told no labels"),
    (["vae"], ["--guidance", "2"], "--guidance is not for pictures"),
    (["vae"], ["--weights", "int8"], "--weights is not for pictures"),
    (["bottom", "top"], ["--weights", "int8"], "got a prior of kind 'pixelcnn'"),
    (["top"], ["--minutes", "1"], "--minutes is not for pictures"),
    (["top"], ["--reject", "4"], "a --label"),
    (["top", "bottom"], ["--upsample", "song.wav"], "wants a model of spectrograms"),
    (["vae"], ["--upsample", "song.wav"], "--upsample is not for pictures"),
    (["top"], ["--temperature", "1", "2"], "one value"),
    (["model"], [], "prior"),
])
def test_what_cannot_be_is_refused(trained, tmp_path, capsys, names, words, said):
    words = [word.format(model=trained / "model") for word in words]
    assert sample(trained, names, "-o", tmp_path / "new", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(trained, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kept.txt").write_text("")
    assert sample(trained, ["top"], "-o", tmp_path / "mine") == 2
    assert "mine" in capsys.readouterr().err and (tmp_path / "mine/kept.txt").exists()
