"""Configs: defaults in one place, unknown keys refused with the nearest name, unions told by kind."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import Discriminator

from audiovae.config import Config, from_dict, merge, read, to_dict
from audiovae.errors import ConfigError
from audiovae.train import Experiment


@dataclass(frozen=True)
class Red(Config):
    kind: Literal["red"] = "red"
    num_codes: int = 4


@dataclass(frozen=True)
class Blue(Config):
    kind: Literal["blue"] = "blue"
    width: float = 0.5
    strides: tuple[int, ...] = (2, 2)


@dataclass(frozen=True)
class Whole(Config):
    part: Annotated[Red | Blue, Discriminator("kind")] = Red()
    parts: tuple[Annotated[Red | Blue, Discriminator("kind")], ...] = ()
    rate: float = 1.0
    steps: int | None = None


def test_everything_comes_back():
    config = Whole(part=Blue(strides=(4, 8)), parts=(Red(), Blue(width=0.1)), steps=7)
    assert from_dict(Whole, to_dict(config)) == config


def test_strings_are_converted_by_type():
    config = from_dict(Whole, {"rate": "5e-4", "steps": "3", "part": {"kind": "blue", "strides": ["4", "4"]}})
    assert config == Whole(rate=5e-4, steps=3, part=Blue(strides=(4, 4)))


@pytest.mark.parametrize(("values", "said"), [
    ({"part": {"kind": "red", "num_code": 1}}, ("'part.num_code'", "nearest: num_codes")),
    ({"ratee": 1}, ("'ratee'", "nearest: rate")),
    ({"parts": [{"kind": "blue", "widht": 1}]}, ("parts.0.widht", "nearest: width")),
    ({"part": {"kind": "green"}}, ("'part'", "'green'", "'red', 'blue'")),
    ({"steps": "many"}, ("'steps'", "'many'")),
    ({"part": {"kind": "blue", "strides": ["x"]}}, ("part.strides", "'x'")),
])
def test_what_does_not_fit_is_named_in_one_line(values, said):
    with pytest.raises(ConfigError) as caught:
        from_dict(Whole, values, source="small.toml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("small.toml: ")
    for part in said:
        assert part in message


def test_a_new_kind_starts_from_its_defaults():
    values = merge({"part": {"kind": "red", "num_codes": 9}}, {"part.width": "2", "part.kind": "blue"})
    assert from_dict(Whole, values).part == Blue(width=2.0)


def test_a_part_without_a_kind_is_of_the_default_one():
    assert from_dict(Whole, {"part": {"num_codes": 9}}).part == Red(num_codes=9)


def test_overrides_leave_the_values_they_came_from_alone():
    values = {"part": {"kind": "red"}}
    merge(values, {"part.num_codes": "9"})
    assert values == {"part": {"kind": "red"}}


def test_a_file_that_is_not_toml(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("rate = = 2")
    with pytest.raises(ConfigError, match="not TOML"):
        read(Whole, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(Whole, tmp_path / "none.toml")


@pytest.mark.parametrize(("key", "value"), [
    ("train.lr", "-1"), ("train.lr", "nan"), ("train.betas", ["0.9", "1.5"]), ("train.ema", "2"),
    ("data.seconds", "nan"), ("data.seconds", "-1"), ("model.encoder.width", "-4"), ("train.steps", "0")])
def test_a_number_out_of_range_is_named(key, value):
    with pytest.raises(ConfigError, match=re.escape(key)):
        from_dict(Experiment, merge({}, {key: value}))


def test_one_value_on_the_command_line_is_a_list_of_one():
    values = merge({"model": {"encoder": {"kind": "mlp"}}}, {"model.encoder.widths": "64"})
    assert from_dict(Experiment, values).model.encoder.widths == (64,)
