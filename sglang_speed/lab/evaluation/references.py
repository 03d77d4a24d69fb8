"""Responses of the full-depth model, and what it says of them: what every other model is compared with.

Drawn at temperature 1, so that the mean difference of log-probabilities on them estimates KL(full depth || model).
They are kept in a file: a server draws the same ones again only if it is deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
"""Any number will do: at full depth all tokens are deep."""


@dataclass(frozen=True)
class Prompt:
    """A chat as token ids. seed: of its response."""

    kind: str
    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Reference:
    """ids: a response of the full-depth model; logprobs, best: of each of its tokens, and the token ranked first."""

    kind: str
    context: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    best: tuple[int, ...]


def prompts(chat_format: ChatFormat, seed: int, num_prompts: int) -> list[Prompt]:
    made = [(kind, chat_format.prompt_ids(Chat(list(messages)))) for kind, messages in chats(seed, num_prompts)]
    return [Prompt(kind, tuple(ids), seed * 100003 + index) for index, (kind, ids) in enumerate(made)]


def draw_references(client: Client, asked: Sequence[Prompt]) -> Iterator[Reference]:
    """Ask a full-depth server. Raises ConfigError where its answers are empty."""

    def draw(prompt: Prompt) -> Reference:
        ids = client.generate(prompt.ids, MAX_NEW_TOKENS, temperature=1.0, sampling_seed=prompt.seed)
        if not ids:
            raise ConfigError(f"{client.url} answered a chat with no token: a model that generates text is needed")
        score = client.score(prompt.ids, ids, FULL_DEPTH_TAIL)
        return Reference(prompt.kind, prompt.ids, tuple(ids), score.logprobs, score.best)

    return client.each(draw, asked)


class ReferenceFile:
    """The references of one model, beside the results. made_for: digests of that model, its tokenizer and prompts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, made_for: Mapping[str, str]) -> list[Reference] | None:
        """None where there is no file, or one of other prompts, which will be replaced. Raises ConfigError for
        references of another model or vocabulary."""
        if not self.path.exists():
            return None
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            found, lines = kept["made_for"], kept["references"]
            references = [reference_of(line) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path} is not a file of references ({error!r}): remove it or name other results"
            ) from error
        for key in ("tokenizer", "model"):
            if found.get(key) != made_for[key]:
                raise ConfigError(
                    f"{self.path} has responses of another {key} ({found.get(key)}, not {made_for[key]}): token ids "
                    "and log-probabilities cannot be compared; name other results with --json, or remove the file"
                )
        return references if dict(found) == dict(made_for) else None

    def write(self, made_for: Mapping[str, str], references: Sequence[Reference]) -> None:
        """A line for each reference."""
        lines = ",\n".join(json.dumps(asdict(reference)) for reference in references)
        text = f'{{"made_for": {json.dumps(dict(made_for))},\n"references": [\n{lines}\n]}}\n'
        with new_file(self.path) as half_written:
            half_written.write_text(text, encoding="utf-8")


def reference_of(line: Mapping[str, Any]) -> Reference:
    return Reference(line["kind"], *(tuple(line[key]) for key in ("context", "ids", "logprobs", "best")))


def digest_of_references(references: Sequence[Reference]) -> str:
    return digest_of([asdict(reference) for reference in references])
