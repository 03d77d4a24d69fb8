"""Word lists of the items, and meaningless prose made of them. Place names are invented."""

from __future__ import annotations

from random import Random


def listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    """Split a text; by whitespace without a separator."""
    return tuple(part.strip() for part in text.split(separator))


NAMES = listed(
    "Agnes Albert Alma Anton Bella Boris Clara Conrad Dora Edgar Elsa Felix Flora Gideon Greta Hector Hilda Ivan "
    "Jasper Judith Karla Kaspar Lena Linus Magda Marvin Nadia Nestor Olga Oscar Petra Quentin Rosa Rufus Selma Silas "
    "Thea Tobias Ursula Victor Wanda Yusuf"
)
PLACES = listed(
    "Aldermoor Ashvale Birchholm Brackford Cinderby Coldmere Dunwell Eastmarsh Elmstead Fernhollow Foxley Glenrath "
    "Greywick Harrowgate Highcombe Ironbridge Kestrelton Larkfield Longmere Maplewood Millbrook Netherby Northcliff "
    "Oakhurst Pinecrest Quarryton Ravenfield Redwater Saltmarsh Silverton Stonebury Thornhill Underwood Westbrook "
    "Willowdale Windmoor"
)
JOBS = listed(
    "baker carpenter dentist farmer gardener judge librarian mechanic nurse painter pilot plumber sailor tailor"
)
ANIMALS = listed("cat dog goat hamster horse lizard owl parrot pony rabbit raven tortoise turkey")
COLOURS = listed("black blue brown golden green grey orange pink purple red silver white yellow")
FOODS = listed(
    "apples bread carrots cheese cherries honey mushrooms olives onions pancakes pears potatoes rice soup walnuts"
)
THINGS = listed(
    "anchor basket bell candle chair clock drum hammer kettle ladder lamp mirror piano rope umbrella violin wagon"
)
HOBBIES = listed(
    "chess cooking cycling dancing drawing fishing gardening hiking knitting painting sailing singing skating"
)
TOPICS = listed(
    "a walk in the rain; the history of bread; why cats purr; how rainbows form; a lost umbrella; the life of a "
    "lighthouse keeper; how to save money; the first day at school; learning the piano; the moon and the tides; a "
    "market in summer; how bees make honey; planting a tree; the work of a nurse; travelling by train; how volcanoes "
    "erupt; a birthday party; keeping a diary; the invention of the wheel; swimming in a lake; how magnets work; a "
    "quiet library; the smell of coffee; sleeping well; recycling old paper; a snowy morning; how clouds form; "
    "friendship; growing tomatoes; the sound of the sea; healthy breakfasts; how airplanes fly; a letter to a friend; "
    "the desert at night; why leaves turn red; a visit to the museum",
    ";",
)
SMALL_TALK = listed(
    "What is a good way to start the day?; Can you name three fruits?; What do people do at the beach?; How do plants "
    "drink water?; What is the largest ocean?; Why is the sky blue?; What can I cook with eggs?; Which season is the "
    "coldest?; Tell me something about the sun.; What is a bicycle used for?; How many days are in a week?; What do "
    "cows eat?; Why do people read books?; What is snow made of?; Name two musical instruments.; What is a map good "
    "for?",
    ";",
)

_TIMES = listed(
    "in the early morning; late in the evening; on a cold Sunday; after the long winter; before the harvest; during "
    "the storm; at the end of the week; once the rain had stopped; in the first days of spring; when the market "
    "closed",
    ";",
)
_DEEDS = listed(
    "repaired the old {thing}; bought a {colour} {thing}; sold {food} to the travellers; wrote a long letter about "
    "{hobby}; looked for a missing {animal}; painted the {thing} {colour}; carried {food} up the hill; told a story "
    "about a {colour} {animal}; left the {thing} beside the road; learned {hobby} from a neighbour; waited for the "
    "ferry with a {animal}; borrowed a {thing}",
    ";",
)
_SCENES = listed(
    "The road to {place} was quiet.; People in {place} are fond of {food}.; A {colour} {animal} slept beside the "
    "{thing}.; Nobody in {place} remembered the {thing}.; The {job} and the {other} spoke of {hobby} for an hour.; In "
    "{place} the houses are {colour} and low.",
    ";",
)


def sentence(random: Random) -> str:
    """A random sentence."""
    words = {
        "place": random.choice(PLACES),
        "thing": random.choice(THINGS),
        "colour": random.choice(COLOURS),
        "food": random.choice(FOODS),
        "animal": random.choice(ANIMALS),
        "hobby": random.choice(HOBBIES),
        "job": random.choice(JOBS),
        "other": random.choice(JOBS),
    }
    if random.random() < 0.3:
        return random.choice(_SCENES).format(**words)
    deed = random.choice(_DEEDS).format(**words)
    time = random.choice(_TIMES)
    return f"{time[0].upper()}{time[1:]} the {words['job']} of {words['place']} {deed}."


def sentences(random: Random, num_words: int) -> list[str]:
    """Sentences with about `num_words` words in total."""
    found: list[str] = []
    count = 0
    while count < num_words:
        found.append(sentence(random))
        count += len(found[-1].split())
    return found
