"""Configurations as plain JSON: written exactly, and read with an error that names the field that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from mdnkernels.train.config.rules import check_config
from mdnkernels.train.errors import ConfigError

C = TypeVar("C")


def to_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dicts of JSON's types."""
    return _CONVERTER.unstructure(config)


def from_plain(kind: type[C], plain: Any, source: str) -> C:
    """Return the configuration of type `kind` that nested dicts hold.

    Raises ConfigError that names `source` and the field for an unknown or missing field, a wrong type or range.
    """
    try:
        config = _CONVERTER.structure(_with_new_names(plain), kind)
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except Exception as error:  # cattrs raises groups, and many types inside them; transform_error names the fields
        problems = cattrs.transform_error(error, path="config", format_exception=_describe)
        raise ConfigError(f"{source}: {'; '.join(problems)}") from error
    return config


def settled(config: C) -> C:
    """Return a configuration that was made in Python as the command line makes it, checked by `check_config`.

    Texts become paths, lists tuples, and whole numbers floating-point ones, where the fields are of these types. Raises
    ConfigError that names the field for a value of another type, and as `check_config` does.
    """
    kind = type(config)
    try:
        same = _CONVERTER.structure(_CONVERTER.unstructure(config), kind)
    except Exception as error:  # as in from_plain
        problems = cattrs.transform_error(error, path=kind.__name__, format_exception=_describe)
        raise ConfigError("; ".join(problems)) from error
    check_config(same)
    return same


# --mixed-precision, as --precision was called in earlier versions.
_OLD_PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _with_new_names(plain: Any) -> Any:
    """Return nested dicts of this or an earlier version with the names of this one."""
    if not isinstance(plain, dict):
        return plain
    named = {name: _with_new_names(value) for name, value in plain.items()}
    if "precision" not in named and named.get("mixed_precision") in _OLD_PRECISIONS:
        named["precision"] = _OLD_PRECISIONS[named.pop("mixed_precision")]
    return named


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, (KeyError, cattrs.ForbiddenExtraKeysError)):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def to_json(config: Any) -> str:
    """Return the text of config.json."""
    return json.dumps(to_plain(config), indent=2) + "\n"


def read_config(kind: type[C], path: Path) -> C:
    """Read a configuration of type `kind` from a JSON file. Raises ConfigError that names file and field."""
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; is this a run directory?") from None
    except (OSError, ValueError, RecursionError) as error:  # the last for lists that are nested without end
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    return from_plain(kind, plain, str(path))


def _make_converter() -> cattrs.Converter:
    """Make a converter that takes a value only in its own type; cattrs alone would take 3.7 for an int."""

    def strict(kind: type, *accepted: type) -> Any:
        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
                return kind(value)
            raise TypeError(f"expected {kind.__name__}, got {value!r}")

        return structure

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(int, strict(int, int))
    converter.register_structure_hook(float, strict(float, int, float))
    converter.register_structure_hook(bool, strict(bool, bool))
    converter.register_structure_hook(str, strict(str, str))
    converter.register_structure_hook(Path, strict(Path, str))
    converter.register_unstructure_hook(Path, str)
    return converter


_CONVERTER = _make_converter()
