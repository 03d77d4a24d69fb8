"""Random words, names, numbers, lengths and filled templates for all kinds of prompts.

Owns the only random generator of this package. Names, towns, companies and streets are Faker's (MIT), in many locales
with Latin letters.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from faker import Faker

from recipes.speed_llama.prompts.words import WORDS

T = TypeVar("T")

LOCALES = (
    *("en_US", "en_US", "en_GB", "en_IN", "en_NG", "de_DE", "fr_FR", "es_ES", "it_IT", "pt_BR"),
    *("nl_NL", "pl_PL", "sv_SE", "tr_TR", "fi_FI", "id_ID", "cs_CZ"),
)
# Their lists are real towns, in a fixed order (not so in it_IT, where it depends on the process's hash seed).
TOWN_LOCALES = ("de_DE", "es_ES", "nl_NL", "pl_PL", "sv_SE", "fi_FI", "cs_CZ", "en_IN")
MAX_PASSAGE_CHARS = 9500
SLOT = re.compile(r"\{([a-z_]+?)(\d*)\}")
ARTICLE = re.compile(r"\b([Aa])\(n\) (\w)")
DISTINCT_TRIES = 8


class Draw:
    """Random parts of prompts; the same seed gives the same ones with one version of Faker."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._fakers = [self._faker(locale) for locale in LOCALES]
        self._towns = [self._faker(locale) for locale in TOWN_LOCALES]

    def pick(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Up to `count` distinct options."""
        return self.random.sample(options, min(count, len(options)))

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.random.random() < share

    def num(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self.random.randint(low, high)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.random.sample(items, len(items))

    def num_chars(self, median: int = 1000, spread: float = 0.75) -> int:
        """A text length, log-normal, up to MAX_PASSAGE_CHARS."""
        return max(150, min(MAX_PASSAGE_CHARS, int(self.random.lognormvariate(0.0, spread) * median)))

    def word(self, kind: str) -> str:
        """A word or number of a slot's kind."""
        if kind in WORDS:
            return self.pick(WORDS[kind])
        return SOURCES[kind](self)

    def distinct(self, kind: str, count: int) -> list[str]:
        """Up to `count` distinct words of one kind."""
        found: dict[str, None] = {}
        for _ in range(count * DISTINCT_TRIES):
            found[self.word(kind)] = None
            if len(found) == count:
                break
        return list(found)

    def fill(self, template: str, known: dict[str, str] | None = None) -> str:
        """Replace slots like `{town}` or `{town2}`. known: values of slots, extended by new ones.

        `a(n)` becomes the article of the next word.
        """
        values = {} if known is None else known

        def value(match: re.Match[str]) -> str:
            slot = match.group(1) + match.group(2)
            if slot not in values:
                values[slot] = self._unlike(match.group(1), values.values())
            return values[slot]

        return ARTICLE.sub(_article, SLOT.sub(value, template))

    def _unlike(self, kind: str, taken: Collection[str]) -> str:
        """A word that is not taken, unless the list is too short."""
        for _ in range(DISTINCT_TRIES):
            word = self.word(kind)
            if word not in taken:
                break
        return word

    def one(self, templates: Sequence[str], known: dict[str, str] | None = None) -> str:
        """One of the templates, filled."""
        return self.fill(self.pick(templates), known)

    def first_name(self) -> str:
        return self.pick(self._fakers).first_name()

    def name(self) -> str:
        """First and last name of one locale."""
        faker = self.pick(self._fakers)
        return f"{faker.first_name()} {faker.last_name()}"

    def town(self) -> str:
        """A town, half of the time English-sounding."""
        return str(self.pick(self._towns).city()) if self.chance(0.5) else self.english("city")

    def english(self, what: str) -> str:
        """A town, company or street of an English locale."""
        return str(getattr(self.pick(self._fakers[:3]), what)())

    def code(self) -> str:
        """An identifier like those on labels."""
        letters = "".join(self.random.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=self.num(1, 3)))
        digits = self.num(10, 99999)
        return self.pick((f"{letters}-{digits}", f"{letters}{digits}", f"{digits}-{letters}", f"{digits}"))

    def date(self) -> str:
        """A date in a common format."""
        day, month, year = self.num(1, 28), self.num(1, 12), self.num(1990, 2029)
        named = WORDS["month"][month - 1]
        return self.pick((f"{day} {named} {year}", f"{named} {day}, {year}", f"{year}-{month:02}-{day:02}"))

    def email(self) -> str:
        """A fictitious e-mail address."""
        user = re.sub(r"[^a-z.]", "", self.name().lower().replace(" ", self.pick((".", ""))))
        return f"{user}@example.{self.pick(('com', 'org', 'net'))}"

    def _faker(self, locale: str) -> Faker:
        faker = Faker(locale, use_weighting=False)
        faker.factories[0].random = self.random
        return faker


def _article(match: re.Match[str]) -> str:
    vowel = match.group(2).lower() in "aeiou"
    return f"{match.group(1)}{'n' if vowel else ''} {match.group(2)}"


SOURCES: dict[str, Callable[[Draw], str]] = {
    "name": Draw.name,
    "first": Draw.first_name,
    "town": Draw.town,
    "company": lambda draw: draw.english("company"),
    "street": lambda draw: draw.english("street_name"),
    "email": Draw.email,
    "code": Draw.code,
    "date": Draw.date,
    "year": lambda draw: str(draw.num(1890, 2024)),
    "time": lambda draw: f"{draw.num(6, 21)}:{draw.num(0, 11) * 5:02}",
    "few": lambda draw: str(draw.num(2, 9)),
    "n": lambda draw: str(draw.num(2, 60)),
    "big": lambda draw: str(draw.num(101, 9999)),
    "pin": lambda draw: str(draw.num(1000, 99999)),
    "flag": lambda draw: draw.pick(("true", "false")),
    "price": lambda draw: draw.pick((f"${draw.num(3, 400)}", f"{draw.num(3, 90)}.{draw.num(10, 99)} euros")),
    "phone": lambda draw: f"555-{draw.num(100, 999)}-{draw.num(1000, 9999)}",
}
