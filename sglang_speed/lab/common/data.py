"""Resolves `--data`: a JSONL file, or a data set of Hugging Face's `datasets`, whose rows are written to one.

`messages` checks the lines. The file is in the user's cache, where a line named in an error can be read and edited.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.atomic import new_file, writing_to
from sglang_speed.checkpoints.default_model import OTHER_CACHE, user_cache
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.extras import require_extra

_CHATS = ("messages", "conversations")
_KEYS = (*_CHATS, "system", "tools")
_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TEXTS = (".gz", ".json", ".jsonl", ".txt")
_GZIP_MAGIC = b"\x1f\x8b"


def chats_file(data: str) -> Path:
    """The JSONL file that `--data` names; the rows of a data set are written to one first.

    data: a JSONL, Parquet or Arrow file, or OWNER/NAME on Hugging Face's Hub (split `train`). Raises ConfigError if a
    data set cannot be loaded.
    """
    path = Path(data)
    if path.suffix not in _TABLES and (path.exists() or path.suffix in _TEXTS or not _NAME.fullmatch(data)):
        return path
    rows = _rows_of(data)
    lines = "".join(json.dumps(_line(row), ensure_ascii=False) + "\n" for row in rows).encode()
    name = data.replace("/", "--") if path.suffix not in _TABLES else path.name
    written = user_cache() / "datasets" / f"{name}-{hashlib.sha256(lines).hexdigest()[:12]}.jsonl"
    with writing_to(written, OTHER_CACHE):
        written.parent.mkdir(parents=True, exist_ok=True)
        with new_file(written) as half_written:
            half_written.write_bytes(lines)
    print(f"sglang-speed: {data}: {len(rows)} rows, read from {written}", file=sys.stderr)
    return written


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, decompressed if it is gzip; ConfigError if unreadable."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error}): give a JSONL file") from error


def _rows_of(data: str) -> Any:
    require_extra("train", "datasets")
    import datasets

    table = _TABLES.get(Path(data).suffix)
    try:
        if table is None:
            rows = datasets.load_dataset(data, split="train")
        else:
            rows = datasets.load_dataset(table, data_files=data, split="train")
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"--data {data} cannot be loaded as a data set ({' '.join(str(error).split())[:300]}): check the name and "
            "the connection to the Hub; or load it elsewhere, write its rows as JSON lines, and pass that file"
        ) from error
    if not any(key in rows.column_names for key in _CHATS):
        raise ConfigError(
            f"--data {data} has no column {' or '.join(_CHATS)}, only {', '.join(rows.column_names)}: write its rows "
            'as JSON lines, {"messages": [...]}, and pass that file'
        )
    return rows


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """The chat of a row, without the nulls that the table filled in."""
    line = {key: row[key] for key in _KEYS if row.get(key) is not None}
    for key in _CHATS:
        if key in line:
            line[key] = [_message(message) for message in line[key]]
    return {key: _without_nulls(value) if key == "tools" else value for key, value in line.items()}


def _message(message: Any) -> Any:
    """Keep a null of the message itself: the model will write it."""
    if not isinstance(message, Mapping):
        return message
    return {key: _without_nulls(value) if key == "tool_calls" else value for key, value in message.items()}


def _without_nulls(value: Any) -> Any:
    """Remove the nulls with which tables fill the keys of other rows, e.g. arguments of other calls."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_without_nulls(one) for one in value]
    return value
