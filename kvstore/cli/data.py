"""``put``, ``get``, ``delete`` and ``scan``: keys and values as a shell has them."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import click

from kvstore.cli import output
from kvstore.cli.endpoints import resolve
from kvstore.cli.exits import Exit
from kvstore.cli.options import Command, Settings, whole_number
from kvstore.cli.text import for_terminal, from_argument, json_value, readable
from kvstore.client import connect
from kvstore.config import LimitsConfig
from kvstore.errors import InvalidArgument, KVError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Any

    from kvstore.client import Client, KeyValue

TIMEOUT_S_MIN = 0.001
FLUSH_ROWS = 1000
"""A long scan reaches the next program of a pipe in pieces of so many rows."""


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[tuple[Client, float]]:
    """An open client, and the seconds that connecting left of ``--timeout``."""
    began = time.monotonic()
    endpoints = resolve(settings)
    cluster_id = endpoints.cluster.id if endpoints.cluster else None
    async with connect(str(endpoints), timeout_s=settings.timeout_s, cluster_id=cluster_id) as kv:
        spent_s = time.monotonic() - began
        yield kv, max(settings.timeout_s - spent_s, TIMEOUT_S_MIN)


@click.command(cls=Command, epilog='VALUE "-" reads stdin.  After "--", a leading "-" is data.')
@click.argument("key", type=from_argument)
@click.argument("value", type=from_argument)
@click.pass_obj
def put(settings: Settings, key: bytes, value: bytes) -> None:
    """Store VALUE under KEY."""
    data = _read_stdin() if value == b"-" else value
    settings.is_write = True
    revision = asyncio.run(_put(settings, key, data))
    if settings.format == "json":
        output.write_json({"key": json_value(key), "revision": revision})
    elif settings.format == "table":
        output.write_table(("key", "revision"), [(readable(key), str(revision))])
    else:
        output.line("OK")


async def _put(settings: Settings, key: bytes, value: bytes) -> int:
    async with _store(settings) as (kv, timeout_s):
        return await kv.put(key, value, timeout_s=timeout_s)


def _read_stdin() -> bytes:
    """All of stdin; one byte over the limit is enough to refuse it without reading on."""
    value_bytes_max = LimitsConfig().value_bytes_max
    if sys.stdin is None:
        raise InvalidArgument('VALUE "-" reads stdin, which is closed')
    data = sys.stdin.buffer.read(value_bytes_max + 1)
    if len(data) > value_bytes_max:
        raise InvalidArgument(f"the value on stdin is over {value_bytes_max} bytes")
    return data


@click.command(cls=Command, epilog="A key that is not there gives exit code 1.")
@click.argument("key", type=from_argument)
@click.pass_obj
def get(settings: Settings, key: bytes) -> int:
    """Print the value of KEY."""
    item = asyncio.run(_get(settings, key))
    if item is None:
        output.note(f"kv: key not found: {readable(key)}")
        return Exit.NOT_FOUND
    match settings.format:
        case "json":
            output.write_json(_json(item))
        case "table":
            _write_item_table([item])
        case "raw":
            output.write(item.value)
        case _ if sys.stdout.isatty():
            output.line(for_terminal(item.value))
        case _:
            output.write(item.value + b"\n")
    return Exit.OK


async def _get(settings: Settings, key: bytes) -> KeyValue | None:
    async with _store(settings) as (kv, timeout_s):
        return await kv.get(key, timeout_s=timeout_s)


@click.command(cls=Command)
@click.argument("keys", metavar="KEY...", type=from_argument, nargs=-1, required=True)
@click.pass_obj
def delete(settings: Settings, keys: tuple[bytes, ...]) -> None:
    """Delete KEYs; prints how many there were."""
    settings.is_write = True
    deleted = asyncio.run(_delete(settings, keys))
    if settings.format == "json":
        output.write_json({"deleted": deleted})
    elif settings.format == "table":
        output.write_table(("deleted",), [(str(deleted),)])
    else:
        output.line(str(deleted))


async def _delete(settings: Settings, keys: tuple[bytes, ...]) -> int:
    """Delete all at once; a failure of one also says if another took effect."""
    async with _store(settings) as (kv, timeout_s):
        results = await asyncio.gather(
            *(kv.delete(key, timeout_s=timeout_s) for key in keys), return_exceptions=True
        )
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if isinstance(failure, KVError):
            failure.may_have_applied |= len(failures) < len(results)
        raise failure
    return sum(result is True for result in results)


@click.command(cls=Command)
@click.argument("prefix", type=from_argument, default=b"")
@click.option("--limit", type=whole_number(at_least=0), metavar="N", help="At most so many keys.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.pass_obj
def scan(settings: Settings, prefix: bytes, limit: int | None, keys_only: bool) -> None:
    """List the keys that start with PREFIX, in key order over all shards.

    Without PREFIX, all keys. Simple: KEY, tab, VALUE on one line, with control characters and
    bytes that are not UTF-8 escaped. JSON: one list of {"key", "value", "revision"}. Raw: as
    simple, with nothing escaped.
    """
    asyncio.run(_scan(settings, prefix, limit, keys_only))


async def _scan(settings: Settings, prefix: bytes, limit: int | None, keys_only: bool) -> None:
    async with (
        _store(settings) as (kv, _timeout_s),
        aclosing(kv.scan(prefix, limit=limit, keys_only=keys_only)) as items,
    ):
        match settings.format:
            case "table":
                _write_item_table([item async for item in items], keys_only=keys_only)
            case "json":
                await _write_json_list(items, keys_only)
            case format_:
                await _write_lines(items, keys_only, is_raw=format_ == "raw")


async def _write_lines(items: AsyncIterator[KeyValue], keys_only: bool, *, is_raw: bool) -> None:
    """One key a line, flushed now and then so that a pipe sees a long scan grow."""
    rows = 0
    async for item in items:
        cells = [item.key] if keys_only else [item.key, item.value]
        if is_raw:
            output.write(b"\t".join(cells) + b"\n")
        else:
            output.line("\t".join(map(readable, cells)))
        rows += 1
        if rows % FLUSH_ROWS == 0:
            output.flush()


async def _write_json_list(items: AsyncIterator[KeyValue], keys_only: bool) -> None:
    """One list, written item by item: valid JSON of any length in little memory."""
    separator = b"["
    async for item in items:
        shown = _json(item)
        if keys_only:
            del shown["value"]
        output.write(separator + b"\n  " + output.dump(shown).encode())
        separator = b","
    output.write(b"[]\n" if separator == b"[" else b"\n]\n")


def _json(item: KeyValue) -> dict[str, Any]:
    return {
        "key": json_value(item.key),
        "value": json_value(item.value),
        "revision": item.revision,
    }


def _write_item_table(items: Sequence[KeyValue], *, keys_only: bool = False) -> None:
    header = ["key", "revision"] if keys_only else ["key", "value", "revision"]
    rows = [
        [readable(item.key), str(item.revision)]
        if keys_only
        else [readable(item.key), readable(item.value), str(item.revision)]
        for item in items
    ]
    output.write_table(header, rows)
