"""The kinds of requests in a storm: one function each, and how often each is dealt.

What an episode asks follows from its seed alone, except that conversations go on with what the server said.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tests.server.storm.client import Client
from tests.server.storm.questions import Question
from tests.tiny_models import BOS_ID, FIRST_BYTE_ID

Tokens = tuple[int, ...]

NUM_TRUNKS = 8
TENANTS = ("red", "blue")
PATTERNS = ("[a-z]{3}-[0-9]{4}", "(yes|no), because [a-z ]{12}", "[0-9]{1,3}(\\.[0-9]{1,3}){3}")
GUEST = "guest"
"""An adapter that comes and goes; each time under a name of its own, which begins so."""
PRINTABLE = range(FIRST_BYTE_ID + 32, FIRST_BYTE_ID + 127)


@dataclass(frozen=True)
class Sizes:
    """What the server's pools allow a request.

    trunk, long: largest prompts, in tokens. answer: most tokens to generate. scored: largest scored span.
    too_much_scored: a span that the deep band can never hold.
    """

    trunk: int = 200
    long: int = 500
    answer: int = 72
    scored: int = 60
    too_much_scored: int = 400


@dataclass(frozen=True)
class Episode:
    """One thing that one client does. `storm_seed` gives the trunks that episodes share, `seed` all else.

    adapters: names of those that it may ask for.
    """

    client: Client
    kind: str
    sizes: Sizes
    storm_seed: str
    seed: str
    adapters: Sequence[str] = ()

    @cached_property
    def adapter(self) -> Mapping[str, Any]:
        """Fields of all its requests: an adapter, or none."""
        name = self.rng.choice((None, *self.adapters)) if self.adapters else None
        return {} if name is None else {"lora_path": name}

    @cached_property
    def rng(self) -> random.Random:
        return random.Random(self.seed)

    @property
    def rid(self) -> str:
        """A request name that is no prefix of another: SGLang aborts by prefix."""
        return f"<{self.seed}>"

    def words(self, low: int, high: int) -> Tokens:
        """Random printable text of `low` to `high` tokens."""
        return text(self.rng, self.rng.randint(low, high))

    def trunk(self) -> Tokens:
        """A prefix of a prompt that other episodes know too; one in ten starts with a token of its own."""
        number = self.rng.randrange(NUM_TRUNKS)
        body = text(random.Random(f"{self.storm_seed} trunk {number // 2}"), self.sizes.trunk)
        body = body if number % 2 else body[: self.sizes.trunk // 2]
        first = self.rng.choice(PRINTABLE) if self.rng.random() < 0.1 else BOS_ID
        return (first, *body[: self.rng.randint(0, len(body))])

    def question(self, prompt: Tokens, **fields: Any) -> Question:
        """A prompt with a random length of answer, sometimes with a priority or as another tenant's."""
        new = self.rng.choice((self.rng.randint(1, 16), self.sizes.answer, self.sizes.answer))
        extra: dict[str, Any] = {"priority": self.rng.choice((0, 0, 20, 40))}
        extra |= {"extra_key": self.rng.choice(TENANTS)} if self.rng.random() < 0.15 else {}
        asked = {"max_new_tokens": new, "fields": extra, **fields}
        return Question(prompt, **asked | {"fields": self.adapter | asked["fields"]})

    def any_question(self, **fields: Any) -> Question:
        return self.question(self.trunk() + self.words(1, 30), **fields)

    def ask(self, question: Question, **fields: Any) -> list[int] | None:
        return self.client.ask(self.kind, question, **fields)


def text(rng: random.Random, num_tokens: int) -> Tokens:
    return tuple(rng.choice(PRINTABLE) for _ in range(num_tokens))


def one_turn(episode: Episode) -> None:
    episode.ask(episode.any_question())


def chat(episode: Episode) -> None:
    """Every turn sends the whole conversation again; it ends where an answer is aborted."""
    first = episode.any_question()
    prompt = first.prompt
    for _ in range(episode.rng.randint(2, 4)):
        answer = episode.ask(episode.question(prompt, fields=first.fields))
        if answer is None:
            return
        prompt = (*prompt, *answer, *episode.words(1, 20))


def branching_agent(episode: Episode) -> None:
    """A thought, three ways to go on that are tried in one batch, and the way back to one of them."""
    goal = episode.any_question()
    thought = episode.ask(goal)
    if thought is None:
        return
    stem = (*goal.prompt, *thought)
    ways = [episode.question(stem + episode.words(1, 20), fields={"priority": 0}) for _ in range(3)]
    found = episode.client.ask_together(episode.kind, ways)
    choice = episode.rng.randrange(3)
    if (answer := found[choice]) is not None:
        episode.ask(episode.question((*ways[choice].prompt, *answer, *episode.words(1, 20)), fields=goal.fields))


def twins(episode: Episode) -> None:
    """The same new prompt several times in one batch: all start cold together."""
    question = episode.question(episode.words(10, 80), fields={})
    episode.client.ask_together(episode.kind, [question] * 4)


def long_prompt(episode: Episode) -> None:
    """A prompt of many chunks that takes most of the pool."""
    sizes = episode.sizes
    episode.ask(episode.question(episode.trunk() + episode.words(sizes.long // 2, sizes.long - sizes.trunk - 1)))


def scored(episode: Episode) -> None:
    """Log-probabilities of the prompt's end, which takes deep tokens for the whole span."""
    prompt = episode.trunk() + episode.words(1, 30)
    start = max(0, len(prompt) - episode.rng.randint(1, episode.sizes.scored))
    episode.ask(episode.question(prompt, scored_from=start, max_new_tokens=episode.rng.randint(0, 40)))


def several_answers(episode: Episode) -> None:
    """n > 1: greedy answers to one prompt, which are all the same."""
    episode.client.ask_often(episode.kind, episode.any_question(), 3)


def constrained(episode: Episode) -> None:
    episode.ask(episode.any_question(pattern=episode.rng.choice(PATTERNS), max_new_tokens=40))


def sampled(episode: Episode) -> None:
    """Not compared; it takes slots, and leaves text in the tree that nobody asks for again."""
    episode.ask(episode.any_question(temperature=1.0))


def prefill_only(episode: Episode) -> None:
    episode.ask(episode.any_question(max_new_tokens=0))


def aborted(episode: Episode) -> None:
    question = episode.any_question(max_new_tokens=episode.sizes.answer)
    episode.client.ask_and_abort(episode.kind, question, episode.rid, episode.rng.uniform(0.0, 1.5))


def aborted_in_prefill(episode: Episode) -> None:
    question = episode.question((BOS_ID, *episode.words(episode.sizes.long - 100, episode.sizes.long - 1)))
    episode.client.ask_and_abort(episode.kind, question, episode.rid, episode.rng.uniform(0.0, 1.5))


def left_stream(episode: Episode) -> None:
    """The client reads a few events and disconnects."""
    question = episode.any_question(max_new_tokens=episode.sizes.answer)
    episode.client.read_and_leave(episode.kind, question, episode.rng.randint(1, 20))


def left_waiting(episode: Episode) -> None:
    """The client disconnects before it was answered."""
    question = episode.any_question(max_new_tokens=episode.sizes.answer)
    episode.client.wait_and_leave(episode.kind, question, episode.rng.uniform(0.05, 1.0))


def refused(episode: Episode) -> None:
    """Log-probabilities of more tokens than the deep band holds."""
    prompt = (BOS_ID, *episode.words(episode.sizes.too_much_scored, episode.sizes.too_much_scored))
    episode.ask(Question(prompt, 4, scored_from=0), may=("refused",))


def flush(episode: Episode) -> None:
    """SGLang flushes when nothing runs, or refuses after the timeout."""
    episode.client.control("/flush_cache?timeout=1")


def abort_all(episode: Episode) -> None:
    episode.client.abort_all()


def guest(episode: Episode) -> None:
    """An adapter is loaded, asked for, and unloaded, while all others run."""
    name, path = f"{GUEST}-{episode.seed}", f"{episode.client.model_path()}/{GUEST}"
    if episode.client.control("/load_lora_adapter", {"lora_name": name, "lora_path": path}):
        for _ in range(2):
            episode.ask(episode.any_question(fields={"lora_path": name}))
        episode.client.control("/unload_lora_adapter", {"lora_name": name})


KINDS: dict[Callable[[Episode], None], int] = {
    one_turn: 18,
    chat: 12,
    branching_agent: 8,
    twins: 4,
    long_prompt: 8,
    scored: 12,
    several_answers: 6,
    constrained: 8,
    sampled: 4,
    prefill_only: 4,
    aborted: 12,
    aborted_in_prefill: 4,
    left_stream: 8,
    left_waiting: 6,
    refused: 4,
    flush: 1,
    abort_all: 1,
}
"""How many of each there are in a deck of 120 episodes."""


def deck(
    client: Client, sizes: Sizes, seed: str, adapters: Sequence[str] = ()
) -> list[tuple[Callable[[Episode], None], Episode]]:
    """All kinds, as often as they should be, in random order."""
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    kinds += [guest] * (6 if GUEST in adapters else 0)
    random.Random(seed).shuffle(kinds)
    always = [name for name in adapters if name != GUEST]
    return [
        (kind, Episode(client, kind.__name__, sizes, seed, f"{seed} {index}", always))
        for index, kind in enumerate(kinds)
    ]
