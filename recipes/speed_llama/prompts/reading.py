"""Requests about a text: questions, summaries, rewriting, extraction, free writing.

The texts come from facts.py (invented, with known facts) and prose.py (real).
"""

from __future__ import annotations

import re

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.facts import Fact, Passage, passage
from recipes.speed_llama.prompts.messages import Messages, conversation, maybe_system, placed
from recipes.speed_llama.prompts.prose import prose
from recipes.speed_llama.prompts.smalltalk import OPENERS

PROSE_QUESTIONS = (
    "What is this text about? Answer in one sentence.",
    "Which rule does the first sentence state?",
    "What does the last paragraph say, in short?",
    'What does the text say about "{term}"?',
    'Quote the sentence in which "{term}" is mentioned.',
    'Explain "{term}" with the words of the text.',
    "Name the two most important terms of the text.",
    "What should a programmer remember from this?",
    "Is there an exception or a warning in the text? If so, which?",
    'In one sentence: how is "{term}" used here?',
    'Does the text mention "{term}"? Answer yes or no, and give the place.',
)
LEADS = (
    "{question}",
    "{question} Answer in a full sentence.",
    "{question} Answer with as few words as possible.",
    "According to the text: {question}",
    "I only skimmed this. {question}",
    "{question} Then quote the sentence that says so.",
    "Please look it up for me. {question}",
    "{question} Reply with the answer only.",
)
SUMMARIES = (
    "Summarise the text in one sentence.",
    "Sum this up in two or three sentences.",
    "What are the main points? Use {few} bullet points at most.",
    "TL;DR please.",
    "Give the text a title.",
    "Write a headline and one sentence for this.",
    "Summarise this for {first}, who has only ten seconds.",
    "Condense this to about {n} words.",
    "Which three facts are the most important here?",
    "Write a short note for a(n) {job} with the essentials.",
)
REWRITES = (
    "Rewrite this in simpler words.",
    "Correct the mistakes and give me the clean text.",
    "Make this sound more formal.",
    "Make it friendlier, but keep all facts.",
    "Write it as a short e-mail to {name}.",
    "Turn it into bullet points.",
    "Rewrite it in the past tense.",
    "Rewrite it as if {first} were telling it (first person).",
    'Replace every name of a person by "the guest" and give me the text.',
    "Rewrite it in half the words.",
    "Turn it into a dialogue between {first} and {first2}.",
    "Write it as a list of questions and answers.",
)
EXTRACTIONS = (
    "List all names of people in the text, one per line.",
    "Which numbers occur in the text? List them in order.",
    "List all places that are mentioned.",
    "Extract every date and time.",
    'Fill in this JSON from the text: {"people": [], "places": [], "numbers": []}',
    "List the things one could touch (objects), separated by commas.",
    "Make a table with the columns Who and What.",
    'Give every fact as "subject - relation - object", one per line.',
    "Which colours and materials are mentioned?",
    "Extract all codes, prices, telephone numbers and addresses.",
    "Write down the key facts as `field: value` lines.",
)
OPEN_REQUESTS = (
    "Go on with it.",
    "What could have happened before this?",
    "What would you ask the author?",
    "What do you think of it?",
    "Comment on this as a(n) {job}.",
    "Explain it to me at length.",
    "Write a reply to this.",
    "Tell it again in your own words, with more details.",
    "What does this tell you about the people in it?",
    "Who might have written this, and what for?",
    "Write a review of this text.",
    "Which questions does it leave open?",
    "Turn this into a story for {first}.",
    "Use this for a speech at the {event}.",
    "What can one learn from it? Discuss.",
    "Write the next paragraph.",
)
GIVEN_ANSWERS = ("{text}", "Sure! {text}", "{text} I hope this helps.", "Here is what I know. {text}")
MORE = (
    "Go on.",
    "I see. What else?",
    "Could you explain the last part in detail?",
    "Are you sure about that?",
    "How would you tell this to {first}, who is {feeling}?",
    "And what has this to do with {topic}?",
    "What follows from it?",
    "Write that down as a letter to {name}.",
    "Which part of this surprises you, and why?",
    "Put it differently.",
)
DISGUISES = (
    "From: {email}\nTo: {email2}\nSubject: {event}\n\nDear {first},\n\n{text}\n\nBest regards\n{name}",
    "# Notes on {project}\n\n{text}",
    "{text}",
    "{text}",
    "{text}",
    "{company}, {department}\nReport of {date}\n\n{text}\n\n(signed) {name}",
    "> {text}\n\n-- posted by {first} at {time}",
    "## {month} {year}\n\n{text}\n\n## To do\n\n- call {name}\n- buy {ingredient}",
)


def questions(draw: Draw) -> Messages:
    """One or several questions about a text."""
    if draw.chance(0.3):
        return _about_prose(draw)
    read = passage(draw, draw.num_chars(900))
    asked = [_question(draw, fact) for fact in read.ask(draw, draw.pick((1, 1, 1, 2, 2, 3)))]
    if len(asked) > 1 and draw.chance(0.4):
        asked = ["\n".join(f"{number}. {question}" for number, question in enumerate(asked, 1))]
    first, *rest = asked
    if draw.chance(0.2):
        system = f"{draw.pick(('Answer from this document.', 'Here is what you know.'))}\n\n{_written(draw, read)}"
        return conversation(asked, system)
    return conversation([placed(draw, _written(draw, read), first), *rest], maybe_system(draw))


def summaries(draw: Draw) -> Messages:
    """A text to summarise."""
    return _request(draw, SUMMARIES, draw.num_chars(1000, 0.6))


def rewrites(draw: Draw) -> Messages:
    """A short text to rewrite."""
    request = draw.one(REWRITES)
    text = passage(draw, draw.num(150, 500)).text(" ")
    if "mistakes" in request:
        text = _with_mistakes(draw, text)
    return conversation([placed(draw, text, request)], maybe_system(draw))


def extractions(draw: Draw) -> Messages:
    """A text with items to list."""
    text = _written(draw, passage(draw, draw.num_chars(550, 0.6)))
    request = draw.one(EXTRACTIONS)
    return conversation([placed(draw, text, request)], maybe_system(draw))


def open_requests(draw: Draw) -> Messages:
    """A text to write about freely: the answer is long and not in the text."""
    return _request(draw, OPEN_REQUESTS, draw.num_chars(1000))


def follow_ups(draw: Draw) -> Messages:
    """A question after a long given answer."""
    text = " ".join(prose(draw, 350)) if draw.chance(0.4) else passage(draw, draw.num_chars(400, 0.6)).text(" ")
    messages = conversation([draw.one(OPENERS), draw.one(MORE)], maybe_system(draw, 0.4))
    first_answer = next(message for message in messages if message["role"] == "assistant")
    first_answer["content"] = draw.one(GIVEN_ANSWERS, {"text": text})
    return messages


def _request(draw: Draw, requests: tuple[str, ...], num_chars: int) -> Messages:
    text = "\n\n".join(prose(draw, num_chars)) if draw.chance(0.5) else _written(draw, passage(draw, num_chars))
    return conversation([placed(draw, text, draw.one(requests))], maybe_system(draw))


def _about_prose(draw: Draw) -> Messages:
    text = "\n\n".join(prose(draw, draw.num_chars(900)))
    terms = re.findall(r"\b[a-z]{7,}\b", text) or ["this"]
    request = draw.one(PROSE_QUESTIONS, {"term": draw.pick(terms)})
    return conversation([placed(draw, text, request)], maybe_system(draw))


def _question(draw: Draw, fact: Fact) -> str:
    return draw.pick(LEADS).format(question=fact.question)


def _written(draw: Draw, read: Passage) -> str:
    """A passage in one of several formats."""
    if draw.chance(0.15):
        return "\n".join(f"- {sentence}" for sentence in read.sentences())
    if draw.chance(0.1):
        people = draw.distinct("first", 2)
        return "\n".join(f"{people[index % 2]}: {sentence}" for index, sentence in enumerate(read.sentences()))
    return draw.one(DISGUISES, {"text": read.text(draw.pick(("\n\n", "\n", " ")))})


def _with_mistakes(draw: Draw, text: str) -> str:
    """Swap or drop letters in about every tenth word."""
    words = text.split(" ")
    for index in range(len(words)):
        word = words[index]
        if len(word) > 3 and word.isalpha() and draw.chance(0.15):
            at = draw.num(1, len(word) - 2)
            words[index] = word[:at] + (
                word[at + 1] + word[at] + word[at + 2 :] if draw.chance(0.6) else word[at + 1 :]
            )
    return " ".join(words)
