"""The messages of a chat, found in the token ids of its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sglang_speed.policy_config import ShortMessages


def short_messages(token_ids: Sequence[int], end: int, messages: ShortMessages) -> tuple[range, ...]:
    """Positions of the messages in `[0, end)` that are short, in order.

    A message begins with a delimiter and ends where the next one begins, the last one at `end`. What stands before the
    first belongs to it. A prompt without a delimiter has no messages.
    """
    begins = sorted({place for each in messages.delimiters for place in _places_of(each, token_ids, end)})
    if not begins:
        return ()
    found = pairwise((0, *begins[1:], end))
    return tuple(range(*message) for message in found if message[1] - message[0] <= messages.max_tokens)


def _places_of(delimiter: Sequence[int], token_ids: Sequence[int], end: int) -> Iterator[int]:
    """Where a delimiter stands in `token_ids[:end]`, whole."""
    first, length, place = delimiter[0], len(delimiter), 0
    while True:
        try:
            place = token_ids.index(first, place, end)
        except ValueError:
            return
        if place + length <= end and tuple(token_ids[place : place + length]) == tuple(delimiter):
            yield place
        place += 1


def merged(ranges: Sequence[range]) -> tuple[range, ...]:
    """The same positions as ascending ranges that neither overlap nor touch."""
    found: list[range] = []
    for each in sorted((each for each in ranges if each), key=lambda each: each.start):
        if found and each.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, each.stop))
        else:
            found.append(each)
    return tuple(found)
