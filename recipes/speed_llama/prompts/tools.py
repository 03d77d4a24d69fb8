"""Calling functions that the system message describes, and using their results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.messages import Messages, conversation


@dataclass(frozen=True)
class Function:
    """A function: name, description, parameters (name: kind of word), requests for it, and a field of its result."""

    name: str
    does: str
    parameters: dict[str, str]
    wishes: tuple[str, ...]
    returns: dict[str, str]


FUNCTIONS = (
    Function(
        "reserve_seats",
        "Reserve seats in a restaurant",
        {"restaurant": "company", "guests": "few", "time": "time"},
        ("A table for {guests} at {restaurant} at {time}, please.", "We are {guests}; {time} at {restaurant}?"),
        {"confirmation": "code"},
    ),
    Function(
        "track_parcel",
        "Find out where a parcel is",
        {"parcel_id": "code"},
        ("Where is my parcel {parcel_id}?", "I am still waiting for {parcel_id}."),
        {"location": "town", "arrives": "weekday"},
    ),
    Function(
        "add_reminder",
        "Store a reminder",
        {"text": "task", "day": "weekday", "time": "time"},
        ("Remind me on {day} at {time} to {text}.", "On {day}, {time}, I must {text}. Don't let me forget."),
        {"reminder_id": "big"},
    ),
    Function(
        "exchange_money",
        "Convert an amount of money",
        {"amount": "big", "target_country": "country"},
        ("How much is {amount} dollars in {target_country}?", "Change {amount} into money of {target_country}."),
        {"result": "big"},
    ),
    Function(
        "find_contact",
        "Look up a person in the address book",
        {"full_name": "name"},
        ("What is the number of {full_name}?", "I need to reach {full_name}."),
        {"phone": "phone", "email": "email"},
    ),
    Function(
        "text_contact",
        "Write to a contact",
        {"recipient": "name", "body": "task"},
        ("Tell {recipient} to {body}.", "Write to {recipient} that they should {body}."),
        {"status": "codeword"},
    ),
    Function(
        "play_music",
        "Play a piece of music",
        {"instrument": "instrument", "minutes": "few"},
        ("Play some {instrument} music for {minutes} minutes.", "{minutes} minutes of {instrument}, please!"),
        {"title": "project"},
    ),
    Function(
        "get_forecast",
        "Weather forecast for a town",
        {"town": "town", "day": "weekday"},
        ("Will it rain in {town} on {day}?", "What will {day} be like in {town}?"),
        {"forecast": "weather", "degrees": "few"},
    ),
    Function(
        "compare_offers",
        "Compare offers up to a price",
        {"product": "product", "color": "color", "max_price": "n"},
        ("Find me a {color} {product} for at most {max_price}.", "Any {product} in {color} under {max_price}?"),
        {"best": "company", "price": "price"},
    ),
    Function(
        "open_ticket",
        "Report a fault to the caretaker",
        {"room": "room", "object": "object", "urgent": "flag"},
        (
            "The {object} in the {room} is broken. Urgent: {urgent}.",
            "Report a faulty {object}, {room}; urgent {urgent}.",
        ),
        {"ticket": "code"},
    ),
    Function(
        "say_in_language",
        "Say a text in another language",
        {"text": "task", "language": "language"},
        ("How do you say '{text}' in {language}?", "Put '{text}' into {language}."),
        {"translation": "codeword"},
    ),
    Function(
        "buy_rail_ticket",
        "Buy a ticket for the railway",
        {"origin": "town", "destination": "town", "date": "date"},
        ("A ticket from {origin} to {destination} on {date}.", "I travel from {origin} to {destination}, {date}."),
        {"seat": "code", "platform": "few"},
    ),
    Function(
        "set_light",
        "Switch the lamps of a room",
        {"room": "room", "color": "color", "percent": "n"},
        ("Make the light in the {room} {color}, {percent} percent.", "{room} lamps: {color} at {percent}%."),
        {"state": "codeword"},
    ),
    Function(
        "log_meal",
        "Write down what was eaten",
        {"meal": "food", "calories": "big"},
        ("I just had {meal}, about {calories} calories.", "Note {calories} calories: {meal}."),
        {"total_today": "big"},
    ),
    Function(
        "suggest_dish",
        "Suggest a dish of two ingredients",
        {"first": "ingredient", "second": "ingredient"},
        ("What can I make of {first} and {second}?", "A recipe with {second} and {first}, please."),
        {"recipe": "food", "minutes": "n"},
    ),
    Function(
        "hire",
        "Search for a professional nearby",
        {"profession": "job", "town": "town"},
        ("I need a {profession} in {town}.", "Is there a good {profession} near {town}?"),
        {"name": "name", "phone": "phone"},
    ),
    Function(
        "lookup_word",
        "Find a word in the glossary",
        {"word": "codeword"},
        ("What does '{word}' mean?", "Look up {word}."),
        {"page": "big"},
    ),
    Function(
        "move_stock",
        "Move goods between places",
        {"item": "object", "count": "n", "to": "room"},
        ("Move {count} {item}s to the {to}.", "The {to} should get {count} more {item}s."),
        {"remaining": "big"},
    ),
    Function(
        "cancel_event",
        "Cancel an event",
        {"event": "event", "date": "date"},
        ("The {event} on {date} will not happen. Cancel it.", "Call off the {event} ({date})."),
        {"refunds": "n"},
    ),
    Function(
        "rename_project",
        "Give a project another name",
        {"old": "project", "new": "project"},
        ("Project {old} is called {new} from now on.", "Rename {old} to {new}."),
        {"revision": "big"},
    ),
)
RULES = (
    'If a tool is needed, answer with JSON only: {"name": tool, "arguments": {...}}.',
    'Reply with one JSON object that has the keys "name" and "arguments", and nothing else.',
    'To use a function, output {"function": "...", "parameters": {...}} on one line.',
    'Use tools like this: <call>{"tool": "...", "args": {...}}</call>',
    "Choose the right function and write the call as name(argument=value, ...).",
    'If no tool fits, say so. Otherwise answer {"name": ..., "arguments": ...}.',
)
INTROS = (
    "You can use these tools:",
    "You have access to the following functions.",
    "Tools, as JSON schemas:",
    "You control an app through functions:",
    "# Available functions",
)
RESULTS = ("Result of {name}: {json}", "The tool returned {json}.", "<result>{json}</result>", "TOOL OUTPUT\n{json}")
AFTER = (" Tell me in one sentence what that means.", "", "", "\nAnswer my question with it.", " So?")
MISFITS = ("Which functions do you have?", "What parameters does {name} need?", "What is {name} good for?")


def tools(draw: Draw) -> Messages:
    """Two to seven functions and a request for one, sometimes more requests or the result of the call."""
    offered = draw.sample(FUNCTIONS, draw.num(2, 7))
    rule = draw.pick(RULES)
    target = draw.pick(offered)
    turns = [_wish(draw, target)]
    kind = draw.random.random()
    if kind < 0.25:
        turns.append(_result(draw, target))
    elif kind < 0.45:
        turns.append(_wish(draw, draw.pick(offered)))
    elif kind < 0.55:
        turns = [draw.pick(MISFITS).format(name=target.name)]
    messages = conversation(turns, _system(draw, offered, rule))
    if rule == RULES[0] and draw.chance(0.7):
        _show(draw, messages, draw.pick(offered))
    return messages


def _system(draw: Draw, offered: list[Function], rule: str) -> str:
    describe = draw.pick((_schema, _schema, _schema, _short, _signature))
    indent = draw.pick((None, None, 1))
    listed = "\n".join(describe(function, indent) for function in offered)
    parts = [draw.pick(INTROS), listed, rule]
    return "\n\n".join(parts if draw.chance(0.7) else [rule, *parts[:2]])


def _show(draw: Draw, messages: Messages, function: Function) -> None:
    """Prepend an answered request as an example."""
    values = _values(draw, function)
    call = json.dumps({"name": function.name, "arguments": values}, ensure_ascii=False)
    wish = draw.pick(function.wishes).format(**values)
    messages[1:1] = [{"role": "user", "content": wish}, {"role": "assistant", "content": call}]


def _values(draw: Draw, function: Function) -> dict[str, str]:
    return {name: draw.word(kind) for name, kind in function.parameters.items()}


def _wish(draw: Draw, function: Function) -> str:
    return draw.pick(function.wishes).format(**_values(draw, function))


def _result(draw: Draw, function: Function) -> str:
    values = {name: draw.word(kind) for name, kind in function.returns.items()}
    text = draw.pick(RESULTS).format(name=function.name, json=json.dumps(values, ensure_ascii=False))
    return text + draw.pick(AFTER)


def _schema(function: Function, indent: int | None) -> str:
    types = {name: {"type": _type(kind)} for name, kind in function.parameters.items()}
    parameters: dict[str, Any] = {"type": "object", "properties": types, "required": list(types)}
    schema = {"name": function.name, "description": function.does, "parameters": parameters}
    return json.dumps(schema, indent=indent)


def _short(function: Function, _: int | None) -> str:
    return f"- {function.name}: {function.does}. Arguments: {', '.join(function.parameters)}."


def _signature(function: Function, _: int | None) -> str:
    arguments = ", ".join(f"{name}: {_type(kind)}" for name, kind in function.parameters.items())
    return f"def {function.name}({arguments}):  # {function.does}"


def _type(kind: str) -> str:
    return {"few": "integer", "n": "integer", "big": "integer", "flag": "boolean"}.get(kind, "string")
