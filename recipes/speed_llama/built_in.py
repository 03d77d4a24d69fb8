"""`python -m recipes.speed_llama.built_in BASE sglang_speed/lab/cutoff/prompts.jsonl`: select the prompts of `cutoff`.

BASE: a checkpoint whose tokens are counted. The selection works with other tokenizers too: long prompts are longer than
necessary, and there are more of each kind than a recommendation needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from recipes.speed_llama.prompts import Messages, labelled_prompts
from recipes.speed_llama.prompts.prose import paragraphs
from sglang_speed.lab.common.chat import Chat, ChatFormat
from sglang_speed.lab.cutoff.evidence import LONG, LOOKUPS, TOOLS
from sglang_speed.lab.cutoff.texts import BUILT_IN_LOOKUPS, choose

NUM = 128
QUOTAS = {LONG: 32, LOOKUPS: 40, TOOLS: 24}
LONG_CHARS, MOST_TOKENS = 2750, 920
"""Long at 5 characters a token; and, with an answer, a little below the limit of `cutoff`."""
SEED = 3


def main(base: Path, path: Path) -> None:
    """Generate, select and write prompts; a line has kind and messages."""
    candidates = list(_candidates(ChatFormat.of_checkpoint(base)))
    chosen = choose(candidates, lambda one: _kinds(one[0], one[2]), NUM, QUOTAS)
    lines = [json.dumps({"kind": kind, "messages": messages}) + "\n" for kind, messages, _ in chosen]
    path.write_text("".join(lines), encoding="utf-8")


def _candidates(chat_format: ChatFormat) -> Iterator[tuple[str, Messages, int]]:
    """Yield kind, messages up to the first answer, and characters of that prompt."""
    for kind, messages in labelled_prompts(16 * NUM, SEED):
        unanswered = next(index for index, message in enumerate(messages) if message["content"] is None)
        asked = messages[:unanswered]
        chat = Chat(list(asked))
        if len(chat_format.prompt_ids(chat)) <= MOST_TOKENS and not _is_others_text(asked):
            yield kind, asked, len(chat_format.render(chat, unanswered, answer_follows=True))


def _is_others_text(messages: Messages) -> bool:
    """Whether they contain text of other authors: all content of the wheel has one license."""
    return any(paragraph in (message["content"] or "") for message in messages for paragraph in paragraphs())


def _kinds(kind: str, num_chars: int) -> set[str]:
    belongs = {LONG: num_chars >= LONG_CHARS, LOOKUPS: kind in BUILT_IN_LOOKUPS, TOOLS: kind == "tools"}
    return {name for name, does in belongs.items() if does}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
