"""Conversations in which the user tells facts and asks for them some turns later, after other turns."""

from __future__ import annotations

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.facts import passage
from recipes.speed_llama.prompts.messages import Messages, conversation, maybe_system
from recipes.speed_llama.prompts.smalltalk import LENGTHS, OPENERS

TOLD = (
    ("My name is {name}.", "What is my name?"),
    ("I live on {street} in {town}.", "Where do I live?"),
    ("My sister {first} is a(n) {job}.", "What does my sister do?"),
    ("I have a(n) {animal} called {first2}.", "What is my {animal} called?"),
    ("My train leaves at {time} from platform {few}.", "When does my train leave?"),
    ("I am allergic to {ingredient}.", "Is there anything I must not eat?"),
    ("I parked the {vehicle} on {street2}, near a(n) {plant}.", "Where did I park?"),
    ("My appointment with {name2} is on {date}.", "With whom is my appointment, and when?"),
    ("The code of my suitcase is {pin}.", "What is the code of my suitcase?"),
    ("I promised {first3} to bring {food}.", "What did I promise to bring?"),
    ("Our team is called {project}, and we have {n} members.", "How many members does my team have?"),
    ("I left my {color} {object} in the {room}.", "Where is my {object}?"),
    ("My favourite colour is {color2}, not {color3}.", "What is my favourite colour?"),
    ("I want to spend at most {price} on a(n) {product}.", "How much do I want to spend?"),
    ("I speak {language} and a little {language2}.", "Which languages do I speak?"),
    ("My order number is {code}.", "What was my order number?"),
    ("I started as a(n) {job2} at {company} in {year}.", "Where do I work, and since when?"),
    ("From now on, call me Captain {last}.", "How should you address me?"),
)
LAST = ("Thunder", "Pancake", "Velvet", "Compass", "Biscuit", "Comet", "Turnip", "Anchor", "Pepper", "Marble")
NOD = ("", "", " Please remember that.", " Just answer OK.", " Keep this in mind.", " I will come back to it.")
HEARD = ("OK.", "Noted.", "Thanks, I shall not forget it.", "Got it.", "All right, I'll keep that in mind.", "I see!")
ASK = (
    "{question}",
    "Do you remember? {question}",
    "One more thing: {question}",
    "So: {question}",
    "{question} Be brief.",
)


def recall(draw: Draw) -> Messages:
    """Facts in one or several turns, other turns, and questions about the facts."""
    known = {"last": draw.pick(LAST)}
    facts = [(draw.fill(told, known), draw.fill(asked, known)) for told, asked in draw.sample(TOLD, draw.num(1, 5))]
    turns = _telling(draw, [told for told, _ in facts])
    num_told = len(turns)
    for _ in range(draw.pick((0, 0, 1, 1, 2))):
        turns.append(_between(draw))
    asked = [question for _, question in draw.sample(facts, draw.num(1, 2))]
    turns += [draw.pick(ASK).format(question=question) for question in asked]
    if len(facts) > 2 and draw.chance(0.2):
        turns.append(draw.pick(("Sum up all that you know about me.", "List everything I told you about myself.")))
    messages = conversation(turns, maybe_system(draw))
    if draw.chance(0.75):
        _nod(draw, messages, num_told)
    return messages


def _nod(draw: Draw, messages: Messages, num_turns: int) -> None:
    """Give answers to the first turns: small models write long and empty ones when they are only told something."""
    open_turns = [message for message in messages if message["role"] == "assistant"]
    for message in open_turns[:num_turns]:
        message["content"] = draw.pick(HEARD)


def _telling(draw: Draw, told: list[str]) -> list[str]:
    if draw.chance(0.45):
        return [" ".join(told) + draw.pick(NOD)]
    return [fact + draw.pick(NOD) for fact in told]


def _between(draw: Draw) -> str:
    if draw.chance(0.3):
        read = passage(draw, draw.num(200, 700))
        return f"{read.text(' ')}\n\n{draw.pick(read.ask(draw)).question}"
    return f"{draw.one(OPENERS)} {draw.pick(LENGTHS)}"
