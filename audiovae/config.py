"""Typed configuration: frozen dataclasses hold every default, a TOML file holds only what differs.

A choice between parts is a union of config classes, told apart by their ``kind``; the union is the
registry, and each class knows how to ``build`` its part. Unknown keys fail with the nearest name.
"""

import dataclasses
import functools
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from audiovae.errors import ConfigError, nearest

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Config:
    """Base of every config class; unknown keys are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@functools.cache
def _adapter(cls: type[T]) -> TypeAdapter[T]:
    """Made once for a class: pydantic takes longer over the union of all models than over a step of training."""
    return TypeAdapter(cls)


def from_dict(cls: type[T], values: dict[str, Any], source: str = "config") -> T:
    """Build the config ``cls`` from nested ``values``; strings are converted ("5e-4" is a float).

    Raises
    ------
    ConfigError
        On an unknown key (with the nearest known one), a wrong type or an unknown ``kind``.

    >>> @dataclass(frozen=True)
    ... class Loop(Config):
    ...     steps: int = 10
    >>> from_dict(Loop, {"steps": "20"}).steps
    20
    """
    try:
        return _adapter(cls).validate_python(_with_kinds(cls, values))
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(cls, error)}") from None


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain nested values, every default written out; the inverse of :func:`from_dict`."""
    return _adapter(type(config)).dump_python(config, mode="json")


def read(cls: type[T], path: str | Path, overrides: Mapping[str, Any] | None = None) -> T:
    """Read a TOML file into ``cls``, with overrides such as ``{"model.bottleneck.num_codes": "512"}``.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML, or does not fit ``cls``.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"config {path}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not TOML ({error}).") from None
    return from_dict(cls, merge(values, overrides or {}), source=f"config {path}")


def merge(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay dotted overrides over nested values; a new ``kind`` starts its part from the defaults.

    >>> merge({"a": {"kind": "x", "n": 1}}, {"a.kind": "y"})
    {'a': {'kind': 'y'}}
    """
    values = _copy(values)
    for key in sorted(overrides, key=lambda key: not key.endswith("kind")):
        *path, last = key.split(".")
        table = values
        for name in path:
            if table.get(name) is None:  # a part that is left out by default
                table[name] = {}
            table = table[name]
            if not isinstance(table, dict):
                raise ConfigError(f"--{key}: {name} is a value, not a table of settings.")
        if last == "kind" and table.get("kind") != overrides[key]:
            table.clear()
        table[last] = overrides[key]
    return values


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _with_kinds(cls: Any, values: Any) -> Any:
    """Values with the default's ``kind`` wherever a part of a union is given without one."""
    if not isinstance(values, dict) or not dataclasses.is_dataclass(cls):
        return values
    hints, full = typing.get_type_hints(cls, include_extras=True), dict(values)
    for field in dataclasses.fields(cls):
        members, part = _members(hints[field.name]), full.get(field.name)
        if typing.get_origin(hints[field.name]) is tuple and isinstance(part, str | int | float):
            full[field.name] = [part]  # the command line gives one value where a list of one is meant
        if isinstance(part, list) and members:  # rows of a table, of the default's kind where they name none
            row = type(field.default[0]) if isinstance(field.default, tuple) and field.default else None
            full[field.name] = [_of_kind(members, row, item) if isinstance(item, dict) else item for item in part]
        if not members or not isinstance(part, dict):
            continue
        full[field.name] = _of_kind(members, type(field.default), part)
    return full


def _of_kind(members: list[type], default: type | None, part: dict[str, Any]) -> Any:
    """A part of a union with its ``kind``, the default's where it names none, and those of its own parts."""
    if len(members) > 1 and "kind" not in part and dataclasses.is_dataclass(default):
        part = {"kind": _kind(default), **part}  # type: ignore[arg-type]
    chosen = [m for m in members if len(members) == 1 or _kind(m) == part.get("kind")]
    return _with_kinds(chosen[0], part) if chosen else part


def _explain(cls: Any, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _known_names(cls, path[:-1])
        return f"unknown key '{'.'.join(_keys(cls, path))}'; {nearest(path[-1], known)}."
    came = "" if isinstance(first.get("input"), dict) else f", got {first.get('input')!r}"
    return f"'{'.'.join(_keys(cls, path))}': {first['msg']}{came}."


def _members(annotation: Any) -> list[type]:
    """The dataclasses an annotation can stand for: Annotated and unions are looked through."""
    if dataclasses.is_dataclass(annotation):
        return [typing.cast(type, annotation)]
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, tuple):
        return [m for part in typing.get_args(annotation) for m in _members(part)]
    return []


def _walk(cls: Any, path: list[str]) -> tuple[list[type], list[str]]:
    """Follow an error's location through the config classes; drop the tags pydantic puts in between."""
    members, keys = _members(cls), []
    for part in path:
        hints = [typing.get_type_hints(m, include_extras=True) for m in members]
        if len(members) > 1 and any(_kind(m) == part for m in members):
            members = [m for m in members if _kind(m) == part]
        elif any(part in h for h in hints):
            members = [m for h in hints if part in h for m in _members(h[part])]
            keys.append(part)
        else:
            keys.append(part)
    return members, keys


def _kind(cls: type) -> str | None:
    return next((f.default for f in dataclasses.fields(cls) if f.name == "kind"), None)  # type: ignore[arg-type]


def _keys(cls: Any, path: list[str]) -> list[str]:
    return _walk(cls, path)[1]


def _known_names(cls: Any, path: list[str]) -> list[str]:
    return [f.name for m in _walk(cls, path)[0] for f in dataclasses.fields(m)]
