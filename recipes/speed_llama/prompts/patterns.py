"""Few-shot examples, classification, sums and small questions about code. An example is an input and its output."""

from __future__ import annotations

from collections.abc import Callable

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.facts import sentences
from recipes.speed_llama.prompts.messages import Messages, conversation, maybe_system, placed

Example = tuple[str, str]

CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "sentiment": {
        "positive": (
            "The {product} {praise}.",
            "I love it: it {praise}!",
            "My {product} {praise}, and {first} agrees.",
        ),
        "negative": (
            "The {product} {issue}.",
            "Never again. Mine {issue}.",
            "My {color} {product} {issue}. So annoying.",
        ),
        "mixed": ("It {praise}, but it {issue}.", "The {product} {issue}; still, it {praise}."),
    },
    "department": {
        "delivery": ("Parcel {code} was left {spot}.", "When will my {product} arrive in {town}?"),
        "billing": ("I was charged {price} twice.", "Please send the invoice {code} to {email}."),
        "repair": ("My {product} {issue}.", "Can {first} fix the {object} in the {room}?"),
        "praise": ("I just want to say that the {product} {praise}.", "Thanks to {name} for the quick help!"),
    },
    "topic": {
        "food": ("We had {food} with {ingredient}.", "How long do I cook {food}?"),
        "travel": ("The {vehicle} to {town} leaves at {time}.", "We spent {few} days in {country}."),
        "work": ("{name} moves to {department}.", "The meeting of {company} starts at {time}."),
        "nature": ("A(n) {animal} slept under the {plant}.", "There was {weather} in {month}."),
    },
    "urgency": {
        "high": (
            "Help! Water is coming through the ceiling of the {room}!",
            "The {vehicle} caught fire near {street}.",
        ),
        "low": ("One day somebody could repaint the {object}.", "No hurry: what does {hobby} cost?"),
    },
    "intent": {
        "question": ("Who {did} the {object}?", "Where is {street}?", "Is {name} in {town} on {weekday}?"),
        "request": ("Bring me the {object}, please.", "Please call {phone}.", "Close the door of the {room}."),
        "statement": ("{first} {did} a(n) {object}.", "It was {weather}.", "{name} works as a(n) {job}."),
    },
}
LABEL_REQUESTS = (
    "Classify the {name} of this message as one of: {labels}. Answer with the label only.",
    "Which {name} fits: {labels}?",
    "Label the text. {name} must be {labels}.",
    "Choose one of {labels} as the {name}, and give a short reason.",
)
SHOWN = (
    ("Input: {shown}", "Output: {answer}"),
    ("{shown}", "=> {answer}"),
    ("Q: {shown}", "A: {answer}"),
    ("{shown} ->", "{answer}"),
    ('{{"in": "{shown}",', '"out": "{answer}"}}'),
    ("Text: {shown}", "Label: {answer}"),
)
ORDERS = (
    "Write what is missing in the last example, and nothing else.",
    "What belongs to the last one? Follow the examples.",
    "Complete the last line as in the examples.",
    "Look at the examples. What is the answer to the last one?",
    "The last one has no answer yet. Which one fits?",
)
SUMS = (
    "What is {a} + {b}?",
    "{a} - {b} = ?",
    "Calculate {small} times {small2}.",
    "{first} has {a} {object}s and gives {small} to {first2}. How many are left?",
    "A {product} costs {a} dollars. How much do {small} of them cost?",
    "Which is larger, {a} or {b}?",
    "Sort these numbers: {a}, {b}, {c}, {d}.",
    "What is half of {even}?",
    "Add up: {a}, {b} and {c}.",
    "{first} walks {small} km a day. How far is that in {small2} days?",
    "The bus leaves at {small}:15 and needs {small2} hours. When does it arrive?",
    "Is {a} even or odd?",
    "A ticket is {small} dollars for children and {small2} for adults. What do {few} adults pay?",
    "Count from {small} to {small2} and say how many numbers that are.",
)
CODES = (
    """def count_{code_noun}({code_noun}):
    total = 0
    for item in {code_noun}:
        if item > {n}:
            total += 1
    return total""",
    """{code_noun} = [{n}, {n2}, {n3}]
{code_noun}.append({n4})
print(len({code_noun}), {code_noun}[0])""",
    """LIMIT = {big}

def check_{code_noun}(value):
    # {first} asked for this on {date}
    return value < LIMIT""",
    """config = {'host': '{codeword}', 'port': {pin}, 'retries': {few}}
print(config['port'])""",
    "SELECT {code_noun}, name FROM {codeword} WHERE year > {year} ORDER BY {code_noun2} LIMIT {n};",
    """for i in range({few}):
    print('{codeword}', i)""",
    """class {last}:
    def __init__(self, {code_noun}):
        self.{code_noun} = {code_noun}

    def first(self):
        return self.{code_noun}[0]""",
    """#!/bin/sh
cp {code_noun}.txt /tmp/{codeword}
sleep {n}
rm {code_noun}.txt""",
    """def {codeword}(a, b={few}):
    return a * b

print({codeword}({n}))""",
)
CODE_QUESTIONS = (
    "What does this code do? One or two sentences.",
    "Which names of variables or columns occur in it?",
    "What numbers appear in this code, and what for?",
    "Explain the last line.",
    "Write a comment for it.",
    "Repeat the code, but rename {code_noun} to {codeword2}.",
    "Copy the second line.",
    "What would you test first?",
    "Is there a loop in it? Which one?",
    "Write a docstring for it.",
)
CODE_WISHES = (
    "Write a Python function that counts {code_noun} longer than {few}.",
    "Write one line of Python that prints the {code_noun} in reverse.",
    "How do I read {code_noun} from a file called {codeword}.txt in Python?",
    "Write a SQL query for all {code_noun} of {year}.",
    "What is the difference between a list and a dictionary of {code_noun}?",
    "Fix this: for i in range({n}) print(i)",
    "Write a regular expression that matches codes like {code}.",
)


def classification(draw: Draw) -> Messages:
    """A text to label, sometimes with labelled examples in the system message."""
    name = draw.pick(sorted(CLASSES))
    labels = CLASSES[name]
    request = draw.pick(LABEL_REQUESTS).format(name=name, labels=", ".join(draw.shuffled(list(labels))))
    texts = [_labelled(draw, name)[0] for _ in range(draw.pick((1, 1, 1, 2, 3)))]
    if draw.chance(0.4):
        examples = "\n".join(
            f"{text} -> {label}" for text, label in (_labelled(draw, name) for _ in range(draw.num(2, 6)))
        )
        return conversation(texts, f"{request}\n\nExamples:\n{examples}")
    return conversation([placed(draw, " ".join(texts), request)], maybe_system(draw))


def few_shot(draw: Draw) -> Messages:
    """Examples of a rule, and an input without output."""
    example = draw.pick(PATTERNS)(draw)
    shown, answered = draw.pick(SHOWN)
    pairs = [example() for _ in range(draw.num(3, 9))]
    done = [f"{shown}\n{answered}".format(shown=text, answer=answer) for text, answer in pairs[:-1]]
    last = shown.format(shown=pairs[-1][0])
    start = answered.split("{answer}")[0].format().rstrip()
    text = draw.pick(("\n\n", "\n")).join([*done, f"{last}\n{start}".rstrip()])
    parts = draw.shuffled((draw.pick(ORDERS), text))
    return conversation(["\n\n".join(parts)], maybe_system(draw, 0.3))


def sums(draw: Draw) -> Messages:
    """Small calculations, and questions about a few lines of code."""
    if draw.chance(0.45):
        numbers = {slot: str(draw.num(2, 120)) for slot in "abcd"}
        numbers |= {"small": str(draw.num(2, 9)), "small2": str(draw.num(2, 12)), "even": str(2 * draw.num(2, 60))}
        asked = [draw.one(SUMS, dict(numbers)) for _ in range(draw.pick((1, 1, 1, 2)))]
        return conversation(asked, maybe_system(draw, 0.4))
    if draw.chance(0.25):
        return conversation([draw.one(CODE_WISHES)], maybe_system(draw, 0.4))
    known = {"last": draw.pick(("Basket", "Drawer", "Ledger", "Shelf", "Queue"))}
    code = draw.one(CODES, known)
    request = draw.one(CODE_QUESTIONS, known)
    return conversation([placed(draw, f"```\n{code}\n```", request)], maybe_system(draw, 0.4))


def _labelled(draw: Draw, name: str) -> Example:
    label = draw.pick(sorted(CLASSES[name]))
    return draw.one(CLASSES[name][label]), label


def _labels(draw: Draw) -> Callable[[], Example]:
    name = draw.pick(sorted(CLASSES))
    return lambda: _labelled(draw, name)


def _field(draw: Draw) -> Callable[[], Example]:
    """The output is the same slot of one sentence."""
    template, slot = draw.pick(
        (
            ("{name} from {town} bought a(n) {object}.", "town"),
            ("On {date}, {first} called {phone}.", "phone"),
            ("{code}: {few} {product}s for {name}", "name"),
            ("The {animal} ate {food} in the {room}.", "room"),
            ("{company} pays {price} to {first}", "price"),
            ("[{time}] {codeword} failed with error {pin}", "pin"),
        )
    )

    def example() -> Example:
        known: dict[str, str] = {}
        return draw.fill(template, known), known[slot]

    return example


def _reordered(draw: Draw) -> Callable[[], Example]:
    """Two words in, one or both out in another form."""
    left, right = draw.sample(("first", "town", "color", "animal", "codeword", "n", "food", "job", "code"), 2)
    shown, answer = draw.pick(
        (("{a}, {b}", "{b} / {a}"), ("{a} {b}", "[{b}]"), ("{a};{b}", "{a} and {b}"), ("{a}", "<{a}>"))
    )

    def example() -> Example:
        words = {"a": draw.word(left), "b": draw.word(right)}
        return shown.format(**words), answer.format(**words)

    return example


def _first_words(draw: Draw) -> Callable[[], Example]:
    """The first or last words of a sentence."""
    count, end = draw.num(1, 3), draw.chance(0.5)

    def example() -> Example:
        words = sentences(draw, 1)[0].split()
        return " ".join(words), " ".join(words[-count:] if end else words[:count])

    return example


PATTERNS: tuple[Callable[[Draw], Callable[[], Example]], ...] = (_labels, _field, _reordered, _first_words)
