"""Histories on disk: JSON lines between a header and a footer.

The header names the format and its version, then comes one operation a line, and the footer counts
them, so that a file that was cut is noticed. Keys and values are text where they are UTF-8, and
``{"base64": ...}`` otherwise.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from histories.model import (
    Action,
    CompareAndSwap,
    Delete,
    Get,
    Increment,
    Operation,
    Put,
    Result,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = "kvstore history"
VERSION: Final = 1

_MESSAGE_CHARACTERS_MAX: Final = 200
_TIME_MAX: Final = 1e15  # seconds; nan and infinities are beyond it

_FIELDS: Final = {
    "get": set[str](),
    "put": {"value"},
    "delete": set[str](),
    "swap": {"expected", "value"},
    "increment": {"by"},
}
_COMMON_FIELDS: Final = {"client", "key", "action", "called", "returned", "result"}


class HistoryFileError(Exception):
    """A file is no whole history; the message names the file, the line and what is wrong."""


class _Damage(Exception):
    """What is wrong with a line."""


def save(path: Path | str, history: Iterable[Operation]) -> None:
    """Write a history to a file, replacing what was there.

    Raises:
        OSError: The file cannot be written.
    """
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(_line({"format": FORMAT, "version": VERSION}))
        for operation in history:
            file.write(_line(_encoded(operation)))
            count += 1
        file.write(_line({"operations": count}))


def load(path: Path | str) -> list[Operation]:
    """Read a history from a file.

    Raises:
        HistoryFileError: The file cannot be read, was cut, is damaged or of another version.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise HistoryFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    number = 1
    history: list[Operation] = []
    try:
        _check_header(_parsed(lines[0]))
        for number, line in enumerate(lines[1:], start=2):
            record = _parsed(line)
            if "operations" in record:
                _check_footer(record, len(history), lines[number:])
                return history
            history.append(_decoded(record))
    except _Damage as damage:
        raise HistoryFileError(f"{path}:{number}: {damage}") from None
    raise HistoryFileError(f"{path}:{number}: the file was cut: its last line is no footer")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(line: bytes) -> dict[str, Any]:
    if not line.strip():
        raise _Damage("an empty line; the file was cut or is damaged")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Damage(f"no UTF-8 at byte {error.start} of the line") from None
    except (ValueError, RecursionError):
        raise _Damage("no JSON; the file was cut or is damaged") from None
    if not isinstance(record, dict):
        raise _Damage("no JSON object")
    return record


def _check_header(record: dict[str, Any]) -> None:
    if record.get("format") != FORMAT:
        raise _Damage(f"no header: this is not a {FORMAT}")
    version = record.get("version")
    if type(version) is not int or version != VERSION:
        raise _Damage(f"version {_quoted(version)} of the format; only {VERSION} is known here")


def _check_footer(record: dict[str, Any], count: int, rest: list[bytes]) -> None:
    said = record["operations"]
    if type(said) is not int or said != count:
        raise _Damage(f"the footer counts {_quoted(said)} operations, but there are {count}")
    if any(rest) or not rest:
        raise _Damage("the footer is not the last whole line")


def _encoded(operation: Operation) -> dict[str, Any]:
    result = operation.result
    return {
        "client": operation.client,
        "key": _encoded_bytes(operation.key),
        **_encoded_action(operation.action),
        "called": operation.called,
        "returned": operation.returned,
        "result": _encoded_bytes(result) if isinstance(result, bytes) else result,
    }


def _encoded_action(action: Action) -> dict[str, Any]:
    match action:
        case Get():
            return {"action": "get"}
        case Put():
            return {"action": "put", "value": _encoded_bytes(action.value)}
        case Delete():
            return {"action": "delete"}
        case CompareAndSwap():
            expected = None if action.expected is None else _encoded_bytes(action.expected)
            return {"action": "swap", "expected": expected, "value": _encoded_bytes(action.value)}
        case Increment():
            return {"action": "increment", "by": action.by}


def _encoded_bytes(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


def _decoded(record: dict[str, Any]) -> Operation:
    name = record.get("action")
    if not isinstance(name, str) or name not in _FIELDS:
        raise _Damage(f"action {_quoted(name)} is none of {', '.join(_FIELDS)}")
    wrong = record.keys() ^ (_COMMON_FIELDS | _FIELDS[name])
    if wrong:
        raise _Damage(f"missing or unknown fields: {', '.join(sorted(map(_quoted, wrong)))}")
    if not _is_text(record["client"]):
        raise _Damage(f"client {_quoted(record['client'])} is no text")
    called = _decoded_time(record, "called")
    returned = None if record["returned"] is None else _decoded_time(record, "returned")
    try:
        return Operation(
            record["client"],
            _decoded_bytes(record, "key"),
            _decoded_action(name, record),
            called,
            returned,
            _decoded_result(record),
        )
    except ValueError as error:
        raise _Damage(str(error)[:_MESSAGE_CHARACTERS_MAX]) from None


def _is_text(value: object) -> bool:
    """JSON can escape half of a surrogate pair, which no UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _decoded_action(name: str, record: dict[str, Any]) -> Action:
    match name:
        case "get":
            return Get()
        case "put":
            return Put(_decoded_bytes(record, "value"))
        case "delete":
            return Delete()
        case "swap":
            expected = None if record["expected"] is None else _decoded_bytes(record, "expected")
            return CompareAndSwap(expected, _decoded_bytes(record, "value"))
        case _:
            if type(record["by"]) is not int:
                raise _Damage(f"by {_quoted(record['by'])} is no whole number")
            return Increment(record["by"])


def _decoded_result(record: dict[str, Any]) -> Result:
    result = record["result"]
    if result is None or isinstance(result, bool | int):
        return result
    return _decoded_bytes(record, "result")


def _decoded_bytes(record: dict[str, Any], field: str) -> bytes:
    value = record[field]
    try:
        if isinstance(value, str):
            return value.encode("utf-8")
        if isinstance(value, dict) and value.keys() == {"base64"}:
            return base64.b64decode(value["base64"], validate=True)
    except (UnicodeEncodeError, binascii.Error, TypeError, ValueError):
        pass  # said below, as for any other kind of value
    raise _Damage(f'{field} {_quoted(value)} is neither text nor {{"base64": ...}}')


def _decoded_time(record: dict[str, Any], field: str) -> float:
    value = record[field]
    if type(value) in (int, float) and abs(value) <= _TIME_MAX:
        return float(value)
    raise _Damage(f"{field} {_quoted(value)} is no time in seconds")


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
