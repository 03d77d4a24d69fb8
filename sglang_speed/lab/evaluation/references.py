"""Responses of the full-depth model with its log-probabilities, the baseline of every other model.

Sampled at temperature 1, so that the mean difference of log-probabilities estimates KL(full depth || model). They are
kept in a file, since only a deterministic server would sample them again.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.atomic import new_file
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.digest import digest_of
from sglang_speed.lab.evaluation.prompts import chats

MAX_NEW_TOKENS = 96
FULL_DEPTH_TAIL = 1
"""Arbitrary: at full depth all tokens are deep."""


@dataclass(frozen=True)
class Prompt:
    """A chat as token ids. seed: for its response."""

    kind: str
    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Reference:
    """ids: a response of the full-depth model. logprobs: of its tokens. best: the most likely token at each place."""

    kind: str
    context: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    best: tuple[int, ...]


def prompts(chat_format: ChatFormat, seed: int, num_prompts: int) -> list[Prompt]:
    made = [(kind, chat_format.prompt_ids(Chat(list(messages)))) for kind, messages in chats(seed, num_prompts)]
    return [Prompt(kind, tuple(ids), seed * 100003 + index) for index, (kind, ids) in enumerate(made)]


def draw_references(client: Client, asked: Sequence[Prompt]) -> Generator[Reference, None, None]:
    """Sample responses of a full-depth server. Raises ConfigError for an empty one."""

    def draw(prompt: Prompt) -> Reference:
        ids = client.generate(prompt.ids, MAX_NEW_TOKENS, temperature=1.0, sampling_seed=prompt.seed)
        if not ids:
            raise ConfigError(f"{client.url} answered a chat with no token: use a model that generates text")
        score = client.score(prompt.ids, ids, FULL_DEPTH_TAIL)
        return Reference(prompt.kind, prompt.ids, tuple(ids), score.logprobs, score.best)

    return client.each(draw, asked)


class ReferenceFile:
    """The references of one model, beside the results. made_for: digests of the model, its tokenizer and prompts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, made_for: Mapping[str, str]) -> list[Reference] | None:
        """None without a file, or for other prompts, whose file will be replaced. Raises ConfigError for references of
        another model or vocabulary."""
        if not self.path.exists():
            return None
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            found, lines = kept["made_for"], kept["references"]
            references = [reference_of(line) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} is not a file of references ({error!r}): remove it or choose another --json"
            ) from error
        for key in ("tokenizer", "model"):
            if found.get(key) != made_for[key]:
                raise ConfigError(
                    f"{self.path} has responses of another {key} ({found.get(key)}, not {made_for[key]}), which cannot "
                    "be compared: choose another --json, or remove the file"
                )
        return references if dict(found) == dict(made_for) else None

    def write(self, made_for: Mapping[str, str], references: Sequence[Reference]) -> None:
        """Write one reference per line."""
        lines = ",\n".join(json.dumps(asdict(reference)) for reference in references)
        text = f'{{"made_for": {json.dumps(dict(made_for))},\n"references": [\n{lines}\n]}}\n'
        with new_file(self.path) as half_written:
            half_written.write_text(text, encoding="utf-8")


def reference_of(line: Mapping[str, Any]) -> Reference:
    return Reference(line["kind"], *(tuple(line[key]) for key in ("context", "ids", "logprobs", "best")))


def digest_of_references(references: Sequence[Reference]) -> str:
    return digest_of([asdict(reference) for reference in references])
