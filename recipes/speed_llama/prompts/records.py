"""Records with common fields, rendered as tables, lists and logs. searching.py asks about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from recipes.speed_llama.prompts.draw import Draw

Row = dict[str, str]

MAX_RECORD_CHARS = 4500

SCHEMAS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("employees", "employee", {"name": "name", "job": "job", "town": "town", "extension": "big"}),
    ("books on loan", "reader", {"reader": "name", "book code": "code", "due": "date", "shelf": "few"}),
    ("parcels", "parcel", {"parcel": "code", "recipient": "name", "town": "town", "weight kg": "n"}),
    ("products", "product", {"product": "product", "price": "price", "stock": "n", "supplier": "company"}),
    ("rooms", "room", {"room": "room", "key": "code", "color": "color", "area": "n"}),
    ("trains", "train", {"train": "code", "to": "town", "departs": "time", "platform": "few"}),
    ("pets in the clinic", "pet", {"pet": "first", "species": "animal", "owner": "name", "visit": "date"}),
    ("settings", "setting", {"setting": "codeword", "value": "pin", "changed by": "first"}),
    ("phone list", "person", {"person": "name", "phone": "phone", "department": "department"}),
    ("lockers", "locker", {"locker": "big", "holder": "name", "combination": "pin", "contents": "object"}),
    ("players", "player", {"player": "name", "instrument": "instrument", "seat": "n", "country": "country"}),
    ("servers", "host", {"host": "codeword", "port": "pin", "owner": "first", "location": "town"}),
    ("garden beds", "bed", {"bed": "few", "plant": "plant", "watered": "weekday", "planted by": "first"}),
    ("translations", "word", {"word": "codeword", "page": "big", "code": "code"}),
    ("courses", "course", {"course": "hobby", "teacher": "name", "day": "weekday", "room": "room", "fee": "price"}),
)


@dataclass(frozen=True)
class Records:
    """Rows with a distinct key, their first field. title: name of the table. thing: name of a row."""

    title: str
    thing: str
    rows: list[Row]

    @property
    def key(self) -> str:
        """The name of the first field."""
        return next(iter(self.rows[0]))


def records(draw: Draw, num_chars: int) -> Records:
    """Records with about `num_chars` of text; at least three rows."""
    title, thing, fields = draw.pick(SCHEMAS)
    others = draw.sample(list(fields)[1:], draw.num(1, len(fields) - 1))
    names = [next(iter(fields)), *others]
    keys = draw.distinct(fields[names[0]], max(3, min(num_chars, MAX_RECORD_CHARS) // (16 * len(names))))
    rows = [{names[0]: key, **{name: draw.word(fields[name]) for name in others}} for key in keys]
    return Records(title, thing, rows)


def render(draw: Draw, table: Records) -> str:
    """The records as text in a random format."""
    return draw.pick(FORMATS)(table)


def markdown(table: Records) -> str:
    head = list(table.rows[0])
    lines = [head, ["---"] * len(head), *(list(row.values()) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv(table: Records) -> str:
    """CSV with semicolons, since prices and names contain commas."""
    return "\n".join(";".join(line) for line in (list(table.rows[0]), *(row.values() for row in table.rows)))


def json_list(table: Records) -> str:
    """A JSON list, one object per line."""
    return "[\n" + ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in table.rows) + "\n]"


def json_map(table: Records) -> str:
    """A JSON object of key to the other fields, or to the only other field."""
    return json.dumps({row[table.key]: _rest(row) for row in table.rows}, ensure_ascii=False, indent=1)


def blocks(table: Records) -> str:
    """`field: value` lines, with a blank line between records."""
    return "\n\n".join("\n".join(f"{name}: {value}" for name, value in row.items()) for row in table.rows)


def bullets(table: Records) -> str:
    """One bullet per record."""
    return "\n".join(f"- {_line(row)}" for row in table.rows)


def numbered(table: Records) -> str:
    """One numbered line per record."""
    return "\n".join(f"{number}. {_line(row)}" for number, row in enumerate(table.rows, 1))


def log(table: Records) -> str:
    lines = (" ".join(f"{name.replace(' ', '_')}={value!r}" for name, value in row.items()) for row in table.rows)
    return "\n".join(f"{8 + i // 60:02}:{i % 60:02} INFO {line}" for i, line in enumerate(lines))


def prose(table: Records) -> str:
    """One sentence per record."""
    sentences = []
    for row in table.rows:
        rest = ", ".join(f"{name} {value}" for name, value in list(row.items())[1:])
        sentences.append(f"The {table.thing} {row[table.key]} has {rest}.")
    return " ".join(sentences)


def yaml(table: Records) -> str:
    """YAML-like, as in configuration files."""
    parts = []
    for row in table.rows:
        rest = "".join(f"\n    {name.replace(' ', '_')}: {value}" for name, value in list(row.items())[1:])
        parts.append(f"  {row[table.key]}:{rest}")
    return f"{table.title.replace(' ', '_')}:\n" + "\n".join(parts)


def tags(table: Records) -> str:
    """XML-like elements."""
    lines = (" ".join(f'{name.replace(" ", "_")}="{value}"' for name, value in row.items()) for row in table.rows)
    return "\n".join(f"<{table.thing} {line} />" for line in lines)


FORMATS: tuple[Callable[[Records], str], ...] = (
    *(markdown, csv, json_list, json_map, blocks, bullets, numbered, log, prose, yaml, tags),
)


def _rest(row: Row) -> str | Row:
    rest = dict(list(row.items())[1:])
    return next(iter(rest.values())) if len(rest) == 1 else rest


def _line(row: Row) -> str:
    key, *rest = row.values()
    return f"{key}: {', '.join(rest)}"
