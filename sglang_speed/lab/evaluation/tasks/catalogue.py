"""The tools of the tool-calling task, as JSON schemas, and user requests for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sglang_speed.lab.evaluation.tasks.words import FOODS, HOBBIES, NAMES, PLACES, THINGS, listed

Values = Mapping[str, Sequence[Any]]

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


@dataclass(frozen=True)
class Tool:
    """request: a user's request, with a field for each argument. values: possible values of each argument."""

    name: str
    description: str
    request: str
    values: Values

    @property
    def schema(self) -> dict[str, Any]:
        """The arguments as a JSON schema."""
        properties = {name: {"type": _type_of(values)} for name, values in self.values.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}

    @property
    def declaration(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "parameters": self.schema}

    def draw(self, random: Random) -> tuple[str, dict[str, Any]]:
        """A user's request and the arguments of the right call."""
        arguments = {name: random.choice(values) for name, values in self.values.items()}
        return self.request.format(**arguments), arguments


def _type_of(values: Sequence[Any]) -> str:
    return {str: "string", int: "integer"}[type(values[0])]


CATALOGUE = (
    Tool("get_weather", "Weather forecast for a city", "What is the weather in {city}?", {"city": PLACES}),
    Tool(
        "send_message",
        "Send a text message to a person",
        'Tell {recipient} that "I am late because of the {text}".',
        {"recipient": NAMES, "text": THINGS},
    ),
    Tool("set_timer", "Start a timer", "Start a timer of {minutes} minutes.", {"minutes": range(3, 60)}),
    Tool(
        "book_train",
        "Buy a train ticket",
        "I need a train ticket from {origin} to {destination}.",
        {"origin": PLACES[::2], "destination": PLACES[1::2]},
    ),
    Tool("play_song", "Play a song of an artist", "Play something by {artist}.", {"artist": NAMES}),
    Tool(
        "add_to_list",
        "Add an item to the shopping list",
        "Put {quantity} {item} on my shopping list.",
        {"item": FOODS, "quantity": range(2, 20)},
    ),
    Tool("find_recipe", "Search recipes by ingredient", "What can I cook with {ingredient}?", {"ingredient": FOODS}),
    Tool(
        "translate",
        "Translate a word",
        "What is {word} in {language}?",
        {"word": THINGS, "language": ("French", "German", "Italian", "Polish", "Spanish", "Turkish")},
    ),
    Tool("call_person", "Start a phone call", "Call {person}, please.", {"person": NAMES}),
    Tool(
        "book_table",
        "Reserve a table at a restaurant",
        "Reserve a table for {guests} on {day}.",
        {"guests": range(2, 12), "day": DAYS},
    ),
    Tool(
        "convert_currency",
        "Convert euros to dollars",
        "How much are {amount} euros in dollars?",
        {"amount": range(5, 500)},
    ),
    Tool(
        "find_course", "Search courses by subject", "I want to learn {subject}. Find me a course.", {"subject": HOBBIES}
    ),
    Tool("set_alarm", "Set an alarm", "Wake me at {hour} on {day}.", {"hour": range(5, 11), "day": DAYS}),
    Tool("search_shop", "Search for a product", "Where can I buy a {product}?", {"product": THINGS}),
    Tool("get_population", "Number of people who live in a city", "How many people live in {city}?", {"city": PLACES}),
    Tool(
        "lock_door",
        "Lock a door of the house",
        "Lock the {door} door.",
        {"door": ("back", "cellar", "front", "garage", "garden")},
    ),
)
