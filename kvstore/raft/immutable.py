"""Value objects that are immutable by the type checker, for there are many for each entry.

A dataclass with ``frozen=True`` sets each field by ``object.__setattr__``: to make a message of
eight fields then takes three times as long. Here an assignment is an error of mypy, and only of
mypy. Equality and hash are those of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[_Class]) -> type[_Class]:
    """Make ``cls`` a dataclass of values; nobody may assign to a field."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
