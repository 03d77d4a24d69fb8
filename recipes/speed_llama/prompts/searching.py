"""Finding and copying: a fact hidden in other text, a value in a list, a verbatim part of the prompt.

The position of a fact and the requested record are drawn uniformly.
"""

from __future__ import annotations

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.facts import passage, sentences
from recipes.speed_llama.prompts.messages import Messages, conversation, maybe_system, placed
from recipes.speed_llama.prompts.prose import prose
from recipes.speed_llama.prompts.records import FORMATS, Records, Row, records, render

HIDDEN = (
    ("The spare key of the {room} hangs {spot}.", "Where does the spare key of the {room} hang?"),
    ("{name}'s locker opens with {pin}.", "What opens {name}'s locker?"),
    ('To enter the {room}, one has to whisper "{codeword}".', "What must one whisper to enter the {room}?"),
    ("Note to self: the guest wifi at {company} is {codeword}-{n}.", "What is the guest wifi at {company}?"),
    ("By the way, {first} is allergic to {ingredient}.", "What is {first} allergic to?"),
    ("Shelf {code} holds the {adj} {object}s.", "What does shelf {code} hold?"),
    ("Flight {code} to {town} now leaves at {time}.", "When does flight {code} to {town} leave?"),
    ("The {animal} in enclosure {few} answers to the name {first}.", "What is the {animal} in enclosure {few} called?"),
    ("For emergencies in {town}, dial {phone}.", "Which number should be dialled for emergencies in {town}?"),
    ("Ticket {big} was won by {name} from {town}.", "Who won ticket {big}, and where is the winner from?"),
    ("The {color} valve must stay closed until {date}.", "Until when must the {color} valve stay closed?"),
    ("Remember: variable {codeword} has to be set to {pin}.", "To what does variable {codeword} have to be set?"),
    ('{first}\'s favourite {instrument} piece is called "{project}".', "What is {first}'s favourite piece called?"),
    ("The treasure lies {n} steps from the {plant} on {street}.", "How many steps from the {plant} is the treasure?"),
    ("Rule {few}: nobody may use the {vehicle} after {time}.", "What does rule {few} say?"),
    ("Please send the invoice for {product}s to {email}.", "Where should the invoice for {product}s go?"),
    ("Project {project} has the number {code}.", "What number does project {project} have?"),
    ('The answer of {name} was: "only on a(n) {weekday}".', "What was the answer of {name}?"),
)
HIDING_REQUESTS = (
    "{question}",
    "{question} Answer with one sentence.",
    "Somewhere above this is mentioned: {question}",
    "{question} Only the answer, please.",
    "I lost track. {question}",
    "Find it in the text: {question}",
    "{question} Give the exact wording.",
)
ONE_FIELD = (
    "What is the {field} of {key}?",
    "{key}: {field}?",
    "Look up {key} and tell me the {field}.",
    "Which {field} belongs to {key}? Answer with the value only.",
    "I need the {field} for {key}.",
    "Please give me the {field} that is listed for {key}.",
)
BACKWARDS = (
    'Which {thing} has the {field} "{value}"?',
    "{value} is whose {field}?",
    "Find the {thing} with {field} {value}.",
)
WHOLE_ROW = (
    "Tell me everything about {key}.",
    "Give me the whole entry of {key} as JSON.",
    "Copy the entry for {key} as it is written.",
    "Write one sentence about {key} with all that is listed.",
)
SEVERAL = (
    "Give me the {field} of {keys}.",
    "List {field} for each of these: {keys}.",
    "Make a JSON object with the {field} of {keys}.",
)
REFORMATS = (
    "Turn this into {form}.",
    "Convert it to {form}. Output nothing else.",
    "Give me the same data as {form}.",
)
FORMS = ("a Markdown table", "a JSON list of objects", "CSV with semicolons", "a bulleted list", "`field: value` lines")
COPIES = (
    "Repeat the text above word by word.",
    "Copy this exactly:",
    "Return the following text unchanged.",
    "Type this out again, please, without changing anything.",
    "Echo:",
)
PARTS = (
    "Repeat line {line}.",
    "Write down lines {line} to {next}, unchanged.",
    'Which line comes right after "{before}"? Copy it.',
    'Copy the line that begins with "{start}".',
    "Copy the last two lines.",
    "Copy the first two lines.",
)


def needles(draw: Draw) -> Messages:
    """A sentence hidden at any depth of another text, sometimes among similar ones."""
    blocks = _haystack(draw, draw.num_chars(1500, 0.85))
    secrets = [hidden(draw) for _ in range(draw.pick((1, 1, 1, 2, 3, 4)))]
    for sentence, _ in secrets:
        hide(draw, blocks, sentence)
    count = draw.num(1, len(secrets)) if draw.chance(0.4) else 1
    asked = [draw.pick(HIDING_REQUESTS).format(question=question) for _, question in draw.sample(secrets, count)]
    text = draw.pick(("\n\n", "\n", " ")).join(blocks)
    return conversation([placed(draw, text, asked[0]), *asked[1:]], maybe_system(draw))


def lookups(draw: Draw) -> Messages:
    """Records, and questions about some of them."""
    table = records(draw, draw.num_chars(800, 0.8))
    text = render(draw, table)
    requests = [_record_request(draw, table) for _ in range(draw.pick((1, 1, 1, 2, 3)))]
    if draw.chance(0.25):
        return conversation(requests, f"You answer questions about these {table.title}.\n\n{text}")
    title = draw.pick(("", f"{table.title.capitalize()}:\n", f"# {table.title}\n\n"))
    return conversation([placed(draw, title + text, requests[0]), *requests[1:]], maybe_system(draw))


def copies(draw: Draw) -> Messages:
    """Text, lines or records to repeat, unchanged or in another format."""
    if draw.chance(0.4):
        table = records(draw, draw.num(120, 420))
        request = draw.pick(REFORMATS).format(form=draw.pick(FORMS))
        return conversation([placed(draw, draw.pick(FORMATS)(table), request)], maybe_system(draw))
    if draw.chance(0.4):
        text = "\n".join(sentences(draw, draw.num(2, 5)))
        request = draw.pick(COPIES)
        parts = (request, text) if request.endswith((":", "text unchanged.")) else (text, request)
        return conversation(["\n\n".join(parts)], maybe_system(draw))
    return _parts(draw)


def _parts(draw: Draw) -> Messages:
    lines = sentences(draw, draw.num(4, 25))
    at = draw.num(1, len(lines) - 1)
    words = lines[at].split(" ")
    known = {"line": at, "next": at + 1, "before": lines[at - 1], "start": " ".join(words[: max(2, len(words) // 3)])}
    marks = draw.pick(("{number}. {line}", "{number}) {line}", "{number}: {line}"))
    text = "\n".join(marks.format(number=number, line=line) for number, line in enumerate(lines, 1))
    return conversation([placed(draw, text, draw.pick(PARTS).format(**known))], maybe_system(draw))


def hidden(draw: Draw) -> tuple[str, str]:
    """A sentence to hide, and the question that it answers."""
    known: dict[str, str] = {}
    sentence, question = draw.pick(HIDDEN)
    return draw.fill(sentence, known), draw.fill(question, known)


def _haystack(draw: Draw, num_chars: int) -> list[str]:
    if draw.chance(0.35):
        return prose(draw, num_chars)
    if draw.chance(0.3):
        return render(draw, records(draw, num_chars)).split("\n")
    return passage(draw, num_chars).sentences()


def hide(draw: Draw, blocks: list[str], sentence: str) -> None:
    """Insert a sentence between two blocks, at a position drawn uniformly over the characters."""
    at = draw.random.uniform(0, sum(map(len, blocks)))
    index = 0
    while index < len(blocks) and at > len(blocks[index]) / 2:
        at -= len(blocks[index])
        index += 1
    blocks.insert(index, sentence)


def _record_request(draw: Draw, table: Records) -> str:
    row = draw.pick(table.rows)
    field = draw.pick(list(row)[1:])
    known = {"field": field, "key": row[table.key], "thing": table.thing, "value": row[field]}
    kind = draw.random.random()
    if kind < 0.5:
        return draw.pick(ONE_FIELD).format(**known)
    if kind < 0.65 and _is_unique(table.rows, field, row[field]):
        return draw.pick(BACKWARDS).format(**known)
    if kind < 0.8:
        return draw.pick(WHOLE_ROW).format(**known)
    keys = [other[table.key] for other in draw.sample(table.rows, draw.num(2, 4))]
    return draw.pick(SEVERAL).format(field=field, keys=", ".join(keys))


def _is_unique(rows: list[Row], field: str, value: str) -> bool:
    return sum(row[field] == value for row in rows) == 1
