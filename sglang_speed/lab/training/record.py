"""The record of a training run beside the weights, and the fingerprint of its working folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME
from sglang_speed.checkpoints.atomic import new_file, writing_to
from sglang_speed.checkpoints.card import model_name
from sglang_speed.checkpoints.manifest import file_sha256
from sglang_speed.checkpoints.weights import find_weight_files
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Conversation
from sglang_speed.lab.training.checks import num_held_out
from sglang_speed.lab.training.settings import Settings

_RUN_FILE = "run.json"
_NOT_IN_FINGERPRINT = ("max_tokens", "log_to")
_CHAT_FORMAT = ("config.json", "generation_config.json", "*token*", "chat_template*", "vocab.json", "merges.txt")
"""Files that determine the token ids of a chat, and where an answer ends."""
_PACKAGES = ("torch", "transformers", "peft", "sglang")


@dataclass(frozen=True)
class Record:
    """num_chats, num_tokens, num_said_tokens: of all chats, held-out ones included. num_said_tokens: tokens of answers.
    first_loss, last_loss: on the held-out chats, before the first step and after the last; None without such chats."""

    source: str
    source_sha256: dict[str, str]
    data: str
    data_sha256: str
    settings: dict[str, Any]
    num_chats: int
    num_held_out: int
    num_tokens: int
    num_said_tokens: int
    first_loss: float | None
    last_loss: float | None
    versions: dict[str, str]

    @classmethod
    def of_run(
        cls,
        source: Path,
        data: Path,
        settings: Settings,
        conversations: Sequence[Conversation],
        losses: Sequence[float],
    ) -> Record:
        return cls(
            source=model_name(source),
            source_sha256={path.name: file_sha256(path) for path in find_weight_files(source)},
            data=data.name,
            data_sha256=file_sha256(data),
            settings=settings.to_dict(),
            num_chats=len(conversations),
            num_held_out=num_held_out(len(conversations), settings),
            num_tokens=sum(len(conversation.token_ids) for conversation in conversations),
            num_said_tokens=sum(len(turn) for conversation in conversations for turn in conversation.turns),
            first_loss=losses[0] if losses else None,
            last_loss=losses[-1] if losses else None,
            versions={package: version(package) for package in _PACKAGES},
        )

    def write(self, directory: Path) -> None:
        _write(directory / PROVENANCE_NAME, asdict(self))


def losses_of(trainer: Any) -> list[float]:
    """Losses on the held-out chats, in order."""
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


def fingerprint(source: Path, data: Path, settings: Settings) -> dict[str, Any]:
    """Everything that a run's files depend on, which must be the same for it to continue."""
    stats = {path.name: path.stat() for path in find_weight_files(source)}
    weights = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    chat_format = {
        path.name: file_sha256(path) for name in _CHAT_FORMAT for path in sorted(source.glob(name)) if path.is_file()
    }
    asked = {key: value for key, value in settings.to_dict().items() if key not in _NOT_IN_FINGERPRINT}
    run = {
        "source": str(source.resolve()),
        "weights": weights,
        "chat_format": chat_format,
        "data": file_sha256(data),
        **asked,
    }
    return json.loads(json.dumps(run))


def claim_work(work: Path, run: Mapping[str, Any]) -> None:
    """Make the working folder, or accept that of the same run; ConfigError if it is another run's."""
    claim = work / _RUN_FILE
    with writing_to(work, "choose another folder with --work"):
        if not claim.is_file():
            if work.is_dir() and any(work.iterdir()):
                raise ConfigError(f"{work} has files that are not of a training run: choose another --work folder")
            work.mkdir(parents=True, exist_ok=True)
            _write(claim, run)
            return
        before = json.loads(claim.read_text(encoding="utf-8"))
    changed = [key for key in run if before.get(key) != run[key]]
    if changed:
        raise ConfigError(
            f"{work} belongs to a run with another {', '.join(changed)} ({before.get(changed[0])!r}, now "
            f"{run[changed[0]]!r}): use the original value to continue it, or choose another folder with --work"
        )


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with new_file(path) as half_written:
        half_written.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
