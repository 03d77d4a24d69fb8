"""The evaluated models: a checkpoint, served here with a chosen tail, or a running server.

Owns the servers that it starts and their temporary checkpoints. Never writes to the user's checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sglang_speed.checkpoints.adapter import require_untrained
from sglang_speed.checkpoints.convert import (
    fill_checkpoint,
    fill_full_depth,
    plain_model_config,
    read_source_config,
)
from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.checkpoints.manifest import file_sha256
from sglang_speed.checkpoints.weights import find_weight_files
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.digest import digest_of
from sglang_speed.lab.common.local_server import LocalServer, start_server
from sglang_speed.policy_config import DEFAULT_POLICY

FULL_DEPTH = "full depth"


@dataclass(frozen=True)
class Subject:
    """name: its series in tables and plots. source: a checkpoint directory or a URL. speed: None at full depth.
    weights: a digest of weights and configuration."""

    name: str
    source: str
    speed: SpeedConfig | None
    weights: str

    @property
    def url(self) -> str | None:
        return self.source if is_url(self.source) else None

    @property
    def label(self) -> str:
        if self.speed is None:
            return self.name
        return f"{self.name}, {_described(self.speed)}"

    @property
    def file_name(self) -> str:
        """The label without special characters."""
        return re.sub(r"[^\w.]+", "-", self.label)

    @property
    def tail_tokens(self) -> int:
        return 1 if self.speed is None else self.speed.tail_tokens

    @property
    def digest(self) -> str:
        """Equal for the same weights at the same depth, whatever the path."""
        return digest_of([self.weights, None if self.speed is None else self.speed.to_dict()])


def _described(speed: SpeedConfig) -> str:
    """What tells the subjects of a comparison apart."""
    parts = [] if speed.policy == DEFAULT_POLICY else [speed.policy]
    parts.append(f"{' and '.join(map(str, speed.cutoffs or (speed.num_layers,)))} of {speed.num_layers}")
    if speed.selection is not None:
        parts.append(f"r {' and '.join(map(str, speed.selection.ratios))}")
        if speed.is_thinned:
            parts.append(f"keep {speed.selection.kept}")
    parts.append(f"tail {speed.tail_tokens}")
    if speed.messages is not None:
        parts.append(f"messages to {speed.messages.max_tokens}")
    return ", ".join(parts)


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def subjects_of(model: str, tails: Sequence[int]) -> list[Subject]:
    """The subjects of `NAME=DIRECTORY` or `DIRECTORY`: for a SPEED checkpoint one per tail; without tails, its own.
    Raises ConfigError for a directory that cannot be served."""
    name, path = split_name(model)
    weights, speed = _read(path)
    if speed is None or speed.is_stock:
        return [Subject(name, str(path), speed, weights)]
    chosen = list(dict.fromkeys(tails)) or [speed.tail_tokens]
    return [Subject(name, str(path), replace(speed, tail_tokens=tail), weights) for tail in chosen]


def full_depth_of(source: str) -> Subject:
    """The full-depth model: a running server, a plain Llama, or the weights of an untrained SPEED checkpoint."""
    if is_url(source):
        return running(source, FULL_DEPTH, must_be_full_depth=True)
    path = local_checkpoint(source)
    require_untrained(path, "compared with")
    return Subject(FULL_DEPTH, str(path), None, _read(path)[0])


def running(url: str, name: str, *, must_be_full_depth: bool = False) -> Subject:
    """A running server. Its weights are unknown, so its digest is of URL and model path."""
    info = Client(url).info()
    speed = served_speed(info)
    if must_be_full_depth and speed is not None and not speed.is_stock:
        raise ConfigError(
            f"{url} serves prompts in {speed.prefill_layers} of {speed.num_layers} layers: --full-depth must run all "
            "layers; give a server or a checkpoint of the plain Llama"
        )
    return Subject(name, url.rstrip("/"), speed, digest_of([url, info.get("model_path")]))


def split_name(model: str) -> tuple[str, Path]:
    """Split `NAME=DIRECTORY`; a directory alone is named by its last part."""
    name, equals, path = model.partition("=")
    if not equals or Path(model).exists():
        name, path = Path(model).name, model
    if not name or not path:
        raise ConfigError(f"{model} is neither a directory nor NAME=DIRECTORY: write e.g. trained=build/trained")
    return name, local_checkpoint(path)


def served_speed(info: dict[str, Any]) -> SpeedConfig | None:
    """The bands that a server reports; None for stock SGLang."""
    state = info["internal_states"][0].get("speed")
    if state is None:
        return None
    return SpeedConfig.from_dict(state["config"], state["num_layers"])


@contextmanager
def serving(subject: Subject, logs: Path, flags: Sequence[str], started: list[LocalServer]) -> Iterator[Client]:
    """A client of the subject's server, which is started unless it is running, and then is in `started` for as long.
    Raises ServerFailed if it does not start."""
    if subject.url is not None:
        yield Client(subject.url)
        return
    with TemporaryDirectory(prefix="sglang-speed-eval-") as directory:
        path = _checkpoint(subject, Path(directory) / "model")
        server = start_server(path, logs / f"{subject.file_name}.log", flags)
        started.append(server)
        try:
            server.wait()
            client = Client(server.url)
            found = served_speed(client.info())
            assert found == subject.speed, f"{server.log_path} serves {found} instead of {subject.speed}"
            yield client
        finally:
            server.stop()
            started.remove(server)


def _checkpoint(subject: Subject, directory: Path) -> Path:
    """The user's checkpoint if it has the wanted bands, otherwise a new one with linked weights."""
    source = Path(subject.source)
    own = SpeedConfig.from_checkpoint(source)
    if own == subject.speed:
        return source
    if subject.speed is None:
        directory.mkdir()
        fill_full_depth(source, directory)
        return directory
    directory.mkdir()
    fill_checkpoint(source, directory, subject.speed)
    return directory


def _read(path: Path) -> tuple[str, SpeedConfig | None]:
    """A digest of a checkpoint's weights and configuration, and its bands.

    By content, so that a run can continue on another machine.
    """
    config = plain_model_config(read_source_config(path))
    files = [(file.name, _sha256(file.resolve(), file.stat().st_mtime_ns)) for file in find_weight_files(path)]
    return digest_of([config, files]), SpeedConfig.from_checkpoint(path)


@cache
def _sha256(path: Path, modified_ns: int) -> str:
    """Cached, since a checkpoint may be served with several tails."""
    return file_sha256(path)
