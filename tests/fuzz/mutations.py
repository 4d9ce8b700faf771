"""From a good file, one that is broken in a place where it hurts."""

import contextlib
import json
import random
import re
import struct
from collections.abc import Iterator
from typing import Any

LARGEST = 1 << 16  # bytes: an input is broken by what it holds, not by how long it is

# JSON that Python's json module would not write, or that means more than it looks like
RAW = [
    "1e309", "-1e309", "1e-400", "NaN", "-Infinity", "-1", "0", "-0.0", "1", "2", "true", "null",
    "65536", "4294967296", "9223372036854775808", "1" + "0" * 30, "9" * 5000, "0.1", "[]", "{}",
    '""', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"\\u202e"', '"../../../../etc/passwd"',
    '"/dev/zero"', '"a/b"', '"file:///etc/passwd"', '"${HOME}"', '"__class__"', '"<script>"',
    f'"{"a" * 5000}"', '"."', "[" * 40 + "]" * 40, "[" * 330 + "]" * 330, "[" * 900 + "]" * 900,
    "[" * 20000,
    '{"a":' * 300 + "1" + "}" * 300, "[1, 2]", '{"a": 1}', '["a", "b"]',
]  # fmt: skip
PIECES = [
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\r",
    b"\n", b"\r\n", b'"', b'""', b",", b"\t", b";", b"\\", b"__label__", b"\xe2\x80\xa8",
    b"\xe2\x80\xae", b"\x1b[2J", b"{", b"}", b"[", b"]", b":", b"<script>", b"</script>",
    b"<!--", b"]]>", b"&#0;", b"\xcc\x81" * 200, b"[CLS]", b"##", b"=1+1", b"`", b"a" * 300,
    b"\xf0\x9f\x91\xa9\xe2\x80\x8d",
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 255, *(2**k for k in (16, 31, 32, 40, 62, 63)), 2**64 - 1]
DTYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "U8", "BOOL", "C64", "X"]
FLOATS = [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xca\xf2\x49\x71", b"\1\0\0\0"]


def mutated(data: bytes, kind: str, rng: random.Random, others: list[bytes]) -> bytes:
    """One to three mutations, most of them of the kind."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        how = KINDS.get(kind)
        broken = None
        if how is not None and rng.random() < 0.75:
            with contextlib.suppress(RecursionError):  # it is nested too deeply for us, too
                broken = how(data, rng)
        data = (anyhow(data, rng, others) if broken is None else broken)[:LARGEST]
    return data


def anyhow(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Bytes flipped, cut, doubled, put in; or the beginning of one file and the end of another."""
    at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    how = rng.randrange(6)
    if how == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if how == 1:
        return data[:at] if rng.random() < 0.5 else data[at:]
    if how == 2:
        return data[:at] + data[end:]
    if how == 3:
        return data[:end] + data[at:]
    if how == 4:
        return data[:at] + rng.choice(PIECES) + data[at:]
    other = rng.choice(others)
    return data[:at] + other[rng.randint(0, len(other)) :]


# ------------------------------------------------------------------------------------------ JSON


def json_file(data: bytes, rng: random.Random) -> bytes | None:
    """One value replaced, removed, doubled or put elsewhere; None if this is no JSON."""
    try:
        value = json.loads(data)
        places = list(inside(value))
        box, key = rng.choice(places)
    except (ValueError, IndexError):
        return None
    how = rng.randrange(8)
    raw = rng.choice(RAW)
    if how == 0 and isinstance(box, dict):
        del box[key]
    elif how == 1 and isinstance(box, dict):
        box[rng.choice(["training", "x\ny", "\ud800", str(key).upper(), "__proto__"])] = box[key]
    elif how == 2 and isinstance(box, list):
        box.insert(rng.randint(0, len(box)), box[key])
    elif how == 3 and isinstance(box, list):
        del box[key]
    elif how == 4:
        other, name = rng.choice(places)
        if name in (other if isinstance(other, dict) else range(len(other))):
            box[key] = json.loads(json.dumps(other[name]))
    elif how == 5 and isinstance(box[key], int | float):
        box[key] = rng.choice(
            [*NUMBERS, 10**30, -box[key], box[key] + 1, box[key] - 1, box[key] * 2]
        )
    else:
        box[key] = "@raw@"
    text = json.dumps(value).replace('"@raw@"', raw)
    if rng.random() < 0.05:  # the same key twice
        text = re.sub(r'("\w+"): ([^,{}\[\]]+)', rf"\1: \2, \1: {re.escape(raw)}", text, count=1)
    return text.encode("utf-8", "surrogatepass")


def inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or dict, key) of a value; it does not recurse."""
    left = [value]
    while left:
        box = left.pop()
        if isinstance(box, dict | list):
            keys = [*box] if isinstance(box, dict) else range(len(box))
            yield from ((box, key) for key in keys)
            left += (box[key] for key in keys)


def json_lines(data: bytes, rng: random.Random) -> bytes | None:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    broken = json_file(lines[k], rng)
    if broken is None:
        return None
    return b"\n".join([*lines[:k], broken, *lines[k + 1 :]])


# ----------------------------------------------------------------------------------- safetensors


def safetensors_file(data: bytes, rng: random.Random) -> bytes | None:
    """The header's length, a tensor's shape, type or place, a weight, or the header as JSON."""
    try:
        [size] = struct.unpack("<Q", data[:8])
        header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
        names = [name for name in header if name != "__metadata__"]
        tensor = header[rng.choice(names)]
        shape, place = tensor["shape"], tensor["data_offsets"]
        how = rng.randrange(10)
        words = header.get("__metadata__", {})
        if "state" in words and rng.random() < 0.6:  # a checkpoint has JSON inside JSON
            words["state"] = (json_file(words["state"].encode(), rng) or b"").decode(
                "utf-8", "replace"
            )
        elif how == 0:
            return struct.pack("<Q", rng.choice(NUMBERS)) + data[8:]
        if how == 1:
            shape[rng.randrange(len(shape))] = rng.choice(NUMBERS)
        elif how == 2:
            rng.choice([shape.reverse, shape.clear, lambda: shape.append(1)])()
        elif how == 3:
            place[rng.randrange(2)] = rng.choice([*NUMBERS, place[0], place[1] + 4])
        elif how == 4:
            tensor["data_offsets"] = header[rng.choice(names)]["data_offsets"]  # they overlap
        elif how == 5:
            tensor["dtype"] = rng.choice(DTYPES)
        elif how == 6:  # the same bytes as half as many numbers, or twice as many
            tensor["dtype"], factor = rng.choice([("F16", 2), ("BF16", 2), ("F64", 0.5)])
            shape[-1] = int(shape[-1] * factor)
        elif how == 7:
            header["more" if rng.random() < 0.5 else rng.choice(names)] = dict(tensor)
        elif how == 8:
            at = 4 * rng.randrange(len(rest) // 4)
            rest = rest[:at] + rng.choice(FLOATS) + rest[at + 4 :]
        else:
            head = json_file(data[8 : 8 + size], rng) or b""
            return struct.pack("<Q", len(head)) + head + rest
        head = json.dumps(header).encode()
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        struct.error,
        AttributeError,
        OverflowError,
    ):
        return None
    return struct.pack("<Q", len(head)) + head + rest


# ---------------------------------------------------------------------------------- lines of text


def lines(data: bytes, rng: random.Random) -> bytes:
    """A line removed, doubled, moved, or something hostile in it."""
    parts = data.splitlines(keepends=True) or [b""]
    k, m = rng.randrange(len(parts)), rng.randrange(len(parts))
    how = rng.randrange(5)
    if how == 0:
        del parts[k]
    elif how == 1:
        parts.insert(m, parts[k])
    elif how == 2:
        parts[k], parts[m] = parts[m], parts[k]
    else:
        at = rng.randint(0, len(parts[k]))
        parts[k] = parts[k][:at] + rng.choice(PIECES) + parts[k][at:]
    return b"".join(parts)


KINDS = {
    "json": json_file,
    "jsonl": json_lines,
    "safetensors": safetensors_file,
    "lines": lines,
    "txt": lines,
}
