"""The form of a conversation: a list of messages; the model answers those with content None."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.speed_llama.prompts.draw import Draw

Message = dict[str, str | None]
Messages = list[Message]

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Keep your answers short.",
    "Answer briefly and truthfully.",
    "You are a patient teacher. Explain things simply.",
    "You work at the help desk of {company}. Be polite and to the point.",
    "Use only what the user gives you. If something is missing, say so.",
    "You are {first}, a(n) {job} from {town}. You answer in a friendly tone.",
    "You are an assistant for {department}. Today is {weekday}, {date}.",
    "Be precise. Copy names, numbers and codes exactly as they are written.",
    "You read documents for busy people and answer in one or two sentences.",
    "You are a quiet, factual assistant who never uses more words than needed.",
    "The user is called {name} and lives in {town}. Help them with whatever they ask.",
    "Your answers are read aloud, so write plain sentences without lists or symbols.",
    "You are a careful editor and proofreader.",
    "Act as a knowledgeable {job}. If you are not sure, admit it.",
    "Answer in at most three sentences.",
)


def conversation(turns: Sequence[str], system: str | None = None) -> Messages:
    """User turns, each followed by an answer of the model."""
    messages: Messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": None}]
    return messages


def maybe_system(draw: Draw, share: float = 0.5) -> str | None:
    """A system message with probability `share`; without one, a chat template may insert its own."""
    return draw.one(SYSTEMS) if draw.chance(share) else None


def placed(draw: Draw, material: str, request: str) -> str:
    """Material and request as one user turn, in either order, joined in one of several ways."""
    before, after = draw.pick(
        (("", ""),) * 5 + (("Text:\n", ""), ('"""\n', '\n"""'), ("---\n", "\n---"), ("<text>\n", "\n</text>"))
    )
    if draw.chance(0.3):
        return f"{request}\n\n{before}{material}{after}"
    return f"{before}{material}{after}\n\n{draw.pick(('', '', '', 'Question: ', 'Task: ', 'Now: '))}{request}"
