"""What --help says of an option: the docstring of its field."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, get_args, get_type_hints

import docstring_parser
from typing_extensions import Doc


def join_lines(config: type) -> None:
    """Name the docstrings of a dataclass's fields, and of those of dataclasses in it, to tyro as one line each.

    Of several lines it breaks the text where the source does, within sentences.
    """
    hints: dict[str, Any] = get_type_hints(config, include_extras=True)
    for hint in hints.values():
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                join_lines(kind)
    for field in docstring_parser.parse_from_object(config).params:
        if "\n" in (field.description or "").strip():
            text = " ".join(str(field.description).split())
            hints[field.arg_name] = Annotated[hints[field.arg_name], Doc(text)]
    config.__annotations__ = hints
