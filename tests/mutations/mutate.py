"""Mutations of files: raw bytes, and edits that know JSON, TOML, protobuf, zip and folders. All from one ``random.Random``."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

EVIL_WORDS = (
    *("", ".", "..", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a/../../b", "\0", "\x1b]0;owned\x07\x1b[31m"),
    *("\u202etxt.exe", "[bold]x[/]", "[link=file:///etc/passwd]x[/link]", "[/]", "\\", '"><script>alert(1)</script>', "{{ 7 * 7 }}"),
    *("'; import os; '", "__import__('os').system('touch owned')", "torch.os.system", "a" * 70_000, "nan", "float16", "object"),
    *("\U0001f642", "x", "*", "**/*"),
)
EVIL_NUMBERS = (*(0, 1, -1, 2, 3, 7, 127, 255, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**53, 2**63 - 1, -(2**63), 2**64, 10**30),)
EVIL_FLOATS = (0.0, -0.0, 1e-45, 1e38, -1e308, 1e308)
_WORDS_OF_A_FILE = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0", b"\0\0\0\x10")


def damage(content: bytes, random: Random) -> bytes:
    """A few raw edits."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if data:
            random.choice(_RAW)(data, random)
    return bytes(data)


def _flip(data: bytearray, random: Random) -> None:
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _word(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data)) & ~3
    data[place : place + 4] = random.choice(_WORDS_OF_A_FILE)


def _small_word(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data)) & ~3
    data[place : place + 4] = random.randrange(2 * len(data)).to_bytes(4, "little")


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data)) :]


def _cut(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data))
    del data[place : place + random.randrange(1, 64)]


def _repeat(data: bytearray, random: Random) -> None:
    place, length = random.randrange(len(data)), random.choice((1, 8, 64, 1024))
    data[place:place] = data[place : place + length] * random.choice((1, 2, 50))


def _splice(data: bytearray, random: Random) -> None:
    source, place = random.randrange(len(data)), random.randrange(len(data))
    data[place : place + 32] = data[source : source + 32]


def _noise(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data))
    data[place : place + 16] = random.randbytes(16)


_RAW: tuple[Callable[[bytearray, Random], None], ...] = (_flip, _flip, _word, _small_word, _truncate, _cut, _repeat, _splice, _noise)


def head_damage(content: bytes, random: Random) -> bytes:
    """Raw edits of the tables of a flatbuffer, which fill its end here, rather than of its weights."""
    place = random.choice((0, max(0, len(content) - 12_000)))
    return content[:place] + damage(content[place : place + 12_000], random) + content[place + 12_000 :]


def edited_json(content: bytes, random: Random) -> bytes:
    """One to three edits of a JSON tree; now and then something no parser likes."""
    if random.random() < 0.04:
        depth = random.choice((100, 5_000, 200_000))
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        return random.choice((b"[" * depth, nested, content.replace(b": 1", b": 1e400"), content[:-1] + b",}"))
    tree = json.loads(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        edit_tree(tree, random)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def edit_tree(tree: Any, random: Random) -> None:
    """One edit somewhere in lists and dicts."""
    holders = list(_holders(tree))
    if not holders:
        return
    holder = random.choice(holders)
    key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = random.random()
    if action < 0.12:
        del holder[key]
    elif action < 0.2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(random.choice(holder)))
    elif action < 0.25:
        holder[key] = copy.deepcopy(random.choice(holders))
    elif action < 0.28 and isinstance(holder, dict):
        holder[random.choice(EVIL_WORDS)] = holder.pop(key)
    else:
        holder[key] = evil_value(holder[key], random)


def _holders(tree: Any) -> list[Any]:
    found, pending = [], [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list) and value:
            found.append(value)
            pending += value.values() if isinstance(value, dict) else value
    return found


def evil_value(value: Any, random: Random) -> Any:
    """Something of the same type as a rule, of another now and then."""
    if random.random() < 0.15:
        return random.choice((None, True, [], {}, "", 0, -1.5, [1, 2], {"a": "b"}, [[[[]]]], "x" * 1000))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((*EVIL_NUMBERS, value + 1, value - 1, -value))
    if isinstance(value, float):
        return random.choice((*EVIL_FLOATS, -value))
    if isinstance(value, str):
        return random.choice((*EVIL_WORDS, value + random.choice(EVIL_WORDS), value[:-1]))
    return random.choice(([], {}, None))


def edited_text(content: bytes, random: Random) -> bytes:
    """Edits of a TOML or CSV file: a value replaced, a line lost, doubled or moved."""
    lines = content.decode().splitlines()
    for _ in range(random.choice((1, 1, 2))):
        index = random.randrange(len(lines))
        action = random.random()
        if action < 0.15:
            lines.insert(index, lines.pop(random.randrange(len(lines))))
        elif action < 0.25:
            lines.insert(index, lines[index])
        elif action < 0.35 and len(lines) > 1:
            del lines[index]
        elif action < 0.4:
            lines.insert(index, random.choice(_EVIL_LINES))
        else:
            lines[index] = re.sub(r'"[^"]*"|-?\d[\d.]*', lambda _: _value_text(random), lines[index], count=random.choice((1, 2)))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_EVIL_LINES = ("x = " + "[" * 10_000, "[a" + ".a" * 5_000 + "]", "y = 1e999", "[[calibration]]", '"\\x00" = 1')


def _value_text(random: Random) -> str:
    word = random.choice(EVIL_WORDS)
    return random.choice((json.dumps(word), str(random.choice(EVIL_NUMBERS)), repr(random.choice(EVIL_FLOATS)), "true", "[]", word))


def edit_message(message: Any, random: Random) -> None:
    """One edit in a protobuf message, at any depth."""
    holders = [message]
    for _ in range(40):
        inner = [value for field, value in holders[-1].ListFields() if field.message_type and not _is_map(field)]
        found = [each for value in inner for each in (value if hasattr(value, "__len__") else [value])]
        if not found or random.random() < 0.12:
            break
        holders.append(random.choice(found))
    target = random.choice(holders[1:] or holders)
    fields = [field for field, _ in target.ListFields() if not _is_map(field)]
    if fields:
        _edit_field(target, random.choice(fields), random)


def _is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _edit_field(target: Any, field: Any, random: Random) -> None:
    value = getattr(target, field.name)
    if hasattr(value, "append") or hasattr(value, "add"):
        _edit_list(value, field, random)
    elif random.random() < 0.2:
        target.ClearField(field.name)
    elif field.message_type is None:
        try:
            setattr(target, field.name, _evil_scalar(value, random))
        except (ValueError, TypeError):
            target.ClearField(field.name)


def _evil_scalar(value: Any, random: Random) -> Any:
    if isinstance(value, bytes):
        return damage(value or b"\0", random)
    return evil_value(value, random)


def _edit_list(values: Any, field: Any, random: Random) -> None:
    if not len(values):
        return
    index, action = random.randrange(len(values)), random.random()
    if action < 0.3:
        del values[index]
    elif field.message_type is not None:
        values.add().CopyFrom(values[index])
    elif action < 0.5:
        values.append(values[index])
    else:
        try:
            values[index] = _evil_scalar(values[index], random)
        except (ValueError, TypeError):
            del values[index]


def edited_zip(content: bytes, random: Random, inner: Callable[[str, bytes, Random], bytes]) -> bytes:
    """An archive with a member changed by ``inner``, renamed, added, doubled or inflated."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    index, action = random.randrange(len(members)), random.random()
    name, held = members[index]
    method = zipfile.ZIP_STORED
    if action < 0.7:
        members[index] = name, inner(name, held, random)
    elif action < 0.76:
        members[index] = random.choice(EVIL_WORDS)[:60].replace("\0", "") or "x", held
    elif action < 0.82:
        members.append((random.choice((name, "../../owned", "/tmp/owned", "m/data/aotinductor/m/a.so", "m/x.pkl")), held))
    elif action < 0.88:
        del members[index]
    elif action < 0.94:
        members[index], method = (name, bytes(random.choice((10**6, 3 * 10**7)))), zipfile.ZIP_DEFLATED
    else:
        members[index] = name, bytes.fromhex("80049500000000000000008c02636f8c0673797374656d9394")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return buffer.getvalue()


def disturb_folder(folder: Path, random: Random) -> None:
    """What a folder of a stranger may hold beside damaged files: links, pipes, nothing, folders, sparse giants."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = random.choice(files)
    action = random.randrange(8)
    if action < 6:
        file.unlink()
    if action == 0:
        file.symlink_to(random.choice(("/etc/passwd", "/dev/zero", "..", "nowhere", str(file), str(random.choice(files)))))
    elif action == 1:
        os.mkfifo(file)
    elif action == 2:
        file.mkdir()
    elif action == 3:
        with file.open("wb") as sparse:
            sparse.truncate(3 * 2**30)
    elif action == 4:
        file.write_bytes(b"")
    elif action == 6:
        target = random.choice(sorted(path for path in folder.rglob("*") if path.is_dir()) or [folder])
        (target / "more").symlink_to(random.choice(("/etc", "/dev/stdin", ".")))
    elif action == 7:
        file.write_bytes(random.choice(files).read_bytes())
