"""Bytes as a person types and sees them.

Keys and values are bytes; a terminal speaks UTF-8. What comes in goes through the file
system's encoding, so that an argument which is not UTF-8 keeps its exact bytes. What goes
out as text is escaped where it would not survive a line or would move the cursor.
"""

from __future__ import annotations

import base64
import os

_NAMED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def from_argument(argument: str | bytes) -> bytes:
    """The bytes that the shell passed, UTF-8 or not: undoes the decoding of the command line."""
    return os.fsencode(argument)


def readable(data: bytes) -> str:
    r"""``data`` on one line, unambiguously: ``\t``, ``\n``, ``\\``, ``\xff``, ``\u200b``."""
    text = data.decode("utf-8", errors="surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that was not UTF-8, as surrogateescape shows it
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def for_terminal(data: bytes) -> str:
    """``data`` with its lines as they are, but nothing that could control a terminal."""
    return "\n".join(
        "\t".join(readable(cell).replace("\\\\", "\\") for cell in line.split(b"\t"))
        for line in data.split(b"\n")
    )


def json_value(data: bytes) -> str | dict[str, str]:
    """UTF-8 as text, anything else as ``{"base64": ...}``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}
