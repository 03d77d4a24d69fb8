"""Output files of a comparison, checked before anything is measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.atomic import new_file
from sglang_speed.errors import ConfigError


@dataclass(frozen=True)
class Outputs:
    """Paths given by the user; None: not wanted. plots: a folder."""

    json: Path | None = None
    plots: Path | None = None
    html: Path | None = None

    @property
    def named(self) -> list[Path]:
        return [path for path in (self.json, self.plots, self.html) if path is not None]

    def require_writable(self) -> None:
        """Make the folders. Raises ConfigError for a path that cannot be written."""
        for path in self.named:
            require_folder(path if path == self.plots else path.parent, path)

    def make_logs(self) -> Path:
        """A folder for the servers' logs, beside the JSON file if there is one. It is not removed."""
        if self.json is None:
            return Path(tempfile.mkdtemp(prefix="sglang-speed-bench-logs-"))
        return self.json.with_name(f"{self.json.stem}-logs")

    def write_json(self, results: Mapping[str, Any]) -> None:
        """Replace the results file atomically, once there is a figure."""
        if self.json is None or not results["scenarios"]:
            return
        replace_json(self.json, results)


def require_folder(folder: Path, path: Path) -> None:
    """Make the folder of `path`. Raises ConfigError if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): choose another path") from error


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically: the old one stays until the new one is complete."""
    with new_file(path) as half_written:
        half_written.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
