"""Prompts like those of chats, few-shot programs and agents, made from Python's own help texts.

The same number and seed give the same prompts in the same version of Python.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

NUM_EXAMPLES = 4
QUESTIONS = (
    "Explain this to a beginner in two sentences.",
    "What is the most important rule in this text?",
    "Write a short example in Python that shows it.",
    "Summarize the text.",
    "List three things that can go wrong here.",
)
FOLLOW_UPS = (
    "Say that again, but shorter.",
    "Why is that so?",
    "Give an example.",
    "What would change if the opposite were true?",
    "Translate your answer into plain words for a child.",
)
AGENT_RULES = (
    "You answer questions about Python. Work in steps. Each step is a line `Thought:` and a line `Action:` with one of "
    "search(words), read(topic), finish(answer). You are then shown an `Observation:`. Call finish as soon as you know."
)

Render = Callable[[list[dict[str, str]]], str]


def realistic_prompts(num_prompts: int, render: Render, seed: int = 0) -> list[str]:
    """A third each of chats, few-shot prompts and agent steps. render: applies a chat template to messages."""
    random_ = random.Random(seed)
    makers = (_chat, _few_shot, _agent)
    return [makers[index % len(makers)](random_, render) for index in range(num_prompts)]


def follow_up(random_: random.Random) -> str:
    """The user's next turn."""
    return random_.choice(FOLLOW_UPS)


def _chat(random_: random.Random, render: Render) -> str:
    content = f"{_passage(random_, random_.randint(300, 1100))}\n\n{random_.choice(QUESTIONS)}"
    system = "You are a helpful assistant who knows Python well."
    return render([{"role": "system", "content": system}, {"role": "user", "content": content}])


def _few_shot(random_: random.Random, render: Render) -> str:
    names = random_.sample(sorted(topics), NUM_EXAMPLES + 1)
    shown = "".join(f"Topic: {name}\nText: {_passage(random_, 160, name)}\n\n" for name in names[:-1])
    return f"Each text is about the topic above it.\n\n{shown}Topic: {names[-1]}\nText:"


def _agent(random_: random.Random, render: Render) -> str:
    messages: list[Any] = [{"role": "system", "content": AGENT_RULES}]
    messages.append({"role": "user", "content": f"What does Python say about {random_.choice(sorted(topics))}?"})
    for _ in range(random_.randint(1, 2)):
        name = random_.choice(sorted(topics))
        step = f"Thought: I should read what is written about {name}.\nAction: read({name})"
        observation = f"Observation: {_passage(random_, random_.randint(200, 500), name)}"
        messages += [{"role": "assistant", "content": step}, {"role": "user", "content": observation}]
    return render(messages)


def _passage(random_: random.Random, num_chars: int, name: str = "") -> str:
    """A passage of about `num_chars` from one topic of Python's help."""
    text = re.sub(r"\s+", " ", topics[name or random_.choice(sorted(topics))].replace("*", ""))
    start = random_.randrange(max(1, len(text) - num_chars))
    return text[start : start + num_chars].partition(" ")[2].rpartition(" ")[0]
