"""Chats and instructions without material: questions, advice, short writing, and checkable rules."""

from __future__ import annotations

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.messages import Messages, conversation, maybe_system

OPENERS = (
    "What is {topic}?",
    "Can you tell me something about {topic}?",
    "Explain {topic} as you would to a ten-year-old.",
    "I never understood {topic}. What is the main idea?",
    "Why does {topic} matter?",
    "Name three facts about {topic}.",
    "What do {topic} and {topic2} have in common?",
    "hey, quick question: how do I {task}?",
    "How can I {task}?",
    "What is the first step to {task}?",
    "Give me {few} tips to {task}.",
    "I want to {task}, but I never find the time. Any advice?",
    "My friend {first} wants to {task}. What should I tell {first}?",
    "What should I know before I {task}?",
    "Is it a good idea to {task} on a(n) {weekday}?",
    "Which mistakes do people make when they try to {task}?",
    "I am {feeling} today. Say something nice to me.",
    "I feel {feeling} because my {animal} lost its {object}. What now?",
    "Tell me a joke about a(n) {job} and a(n) {animal}.",
    "Write a two-line poem about a(n) {adj} {object}.",
    "Write the first sentence of a story about a(n) {job} in {country}.",
    "Invent a name for a shop that sells {object}s and {food}.",
    "Suggest a slogan for {company}, which makes {product}s.",
    "What could I cook with {ingredient}, {ingredient2} and {ingredient3}?",
    "What goes well with {food}?",
    "Describe a(n) {animal} in one sentence.",
    "What is the difference between a(n) {animal} and a(n) {animal2}?",
    "What does a(n) {job} do all day?",
    "Would you rather be a(n) {job} or a(n) {job2}? Give one reason.",
    "How do I say thank you in {language}?",
    "What is {country} known for?",
    "What is the capital of {country}?",
    "Plan one day in {country} for someone who loves {hobby}.",
    "What do I need to start with {hobby}?",
    "Is {hobby} expensive?",
    "Give me three reasons for and one against {hobby}.",
    "Write a short birthday wish for {name}, who likes {hobby}.",
    "Write a text message to {first}: I will be {n} minutes late {reason}.",
    "Write a polite e-mail to {company}: my {product} {issue}.",
    "Write a short notice: the {event} on {weekday} is cancelled {reason}.",
    "Write a short advertisement for a(n) {adj} {object} that costs {price}.",
    "Write a thank-you note to {first} for the {object}.",
    "Can you recommend a present for a(n) {job} who is fond of {hobby}?",
    "What can one make of {material}?",
    "Where does {ingredient} come from?",
    "How do I clean a(n) {object} made of {material}?",
    "How do I take care of a(n) {plant}?",
    "What should I pack for a trip to {country} in {month}?",
    "Finish this sentence: The {adj} {object} in the {room} was",
    "Who are you, and what can you do for me?",
    "Good morning! My name is {first} and I am a(n) {job}.",
    "Are you able to help me with {topic}?",
    "True or false: {topic} was discovered by a(n) {job}. Explain briefly.",
    "Compare {color} and {color2} for the walls of a(n) {room}.",
    "Which is better for a small {room}: a(n) {object} or a(n) {object2}?",
    "Give me a word that rhymes with {codeword}, and use it in a sentence.",
    "What is another word for {feeling}?",
    "What is the opposite of {feeling}?",
    "List five things one finds in a(n) {room}.",
    "List five words that have to do with {topic}.",
)
LENGTHS = (
    "Answer in one sentence.",
    "Keep it short.",
    "Two sentences are enough.",
    "In a few words, please.",
    "Be brief.",
    "No more than 40 words.",
    "Just the main point.",
)
FOLLOW_UPS = (
    "Thanks! Can you say that in simpler words?",
    "Give me one example.",
    "Which of these would you do first?",
    "And if I have no money for it?",
    "Make that shorter.",
    "Why?",
    "What do you mean by the first part?",
    "Rewrite your answer as a list of {few} points.",
    "Would your answer change for a(n) {job}?",
    "Ok. What is the most important word in your answer?",
    "Now say the same to {first}, who is {feeling}.",
    "Repeat your last sentence.",
    "How does that relate to {topic}?",
    "Interesting. What is the biggest risk?",
    "Put it in one sentence.",
)
RULES = (
    "Write exactly {few} sentences.",
    "Use exactly three bullet points, each starting with a dash.",
    'Begin your answer with the words "{opening}".',
    'End your answer with the sentence "{ending}".',
    'Use the word "{codeword}" at least once.',
    "Mention {town} and {name}.",
    "Write everything in lower case.",
    "WRITE EVERYTHING IN CAPITAL LETTERS.",
    "Do not use any commas.",
    'Do not use the word "the".',
    "Put your whole answer between the tags <{codeword2}> and </{codeword2}>.",
    "Write at most {n} words.",
    "Number your points 1., 2. and 3.",
    'Give the answer as JSON with the keys "{codeword3}" and "{codeword4}".',
    'Put a title in front, as in "# {project}".',
    "Separate two paragraphs with a line of three stars (***).",
    'Answer with a table of two columns, "{object}" and "{feeling}".',
    "Ask one question at the end.",
    'Sign with "{first}, {job}".',
    "Put the number {pin} in brackets after the first sentence.",
    "Wrap the answer in double quotation marks.",
    "Every line must contain a {color} thing.",
)
RULE_WORDS = {
    "opening": ("In short,", "Well then:", "Dear reader,", "Here it comes:", "As everyone knows,", "First of all,"),
    "ending": (
        "And that was it.",
        "Over to you!",
        "More tomorrow.",
        "Stay curious.",
        "I hope it helps.",
        "End of story.",
    ),
}
SUBJECTS = (
    "Write a few lines on {topic}.",
    "Describe a(n) {adj} {object}.",
    "Give advice on how to {task}.",
    "Tell a very short story about a(n) {animal} and a(n) {job}.",
    "Explain why people like {hobby}.",
    "Recommend {food} to a friend.",
    "Describe the weather: {weather}.",
    "Introduce {name}, a(n) {job} from {town}.",
    "Tell me about {country}.",
    "Say why a(n) {product} is useful.",
)
JOINS = ("{subject} {rules}", "{rules} {subject}", "{rules}\n\n{subject}", "Rules:\n{listed}\n\n{subject}")


def chat(draw: Draw) -> Messages:
    """A question or small request, sometimes with facts about the user, sometimes with follow-ups."""
    known: dict[str, str] = {}
    opener = draw.one(OPENERS, known)
    if draw.chance(0.6):
        opener = f"{opener} {draw.pick(LENGTHS)}"
    if draw.chance(0.2):
        opener = draw.one(("I am {name9}, a(n) {job9} in {town9}. ", "It is {time9} here in {town9}. ")) + opener
    turns = [opener]
    while len(turns) < 4 and draw.chance(0.28):
        turns.append(draw.one(FOLLOW_UPS))
    return conversation(turns, maybe_system(draw))


def instructions(draw: Draw) -> Messages:
    """A writing task with one to three rules, given by the user or in the system message."""
    known = {slot: draw.pick(words) for slot, words in RULE_WORDS.items()}
    rules = [draw.fill(rule, known) for rule in draw.sample(RULES, draw.pick((1, 1, 1, 2, 2, 3)))]
    subject = draw.one(SUBJECTS)
    if draw.chance(0.3):
        orders = draw.pick(("Always follow these rules:\n", "House style:\n")) + "\n".join(
            f"* {rule}" for rule in rules
        )
        turns = [subject, draw.one(SUBJECTS)] if draw.chance(0.3) else [subject]
        return conversation(turns, orders)
    parts = {"subject": subject, "rules": " ".join(rules), "listed": "\n".join(f"- {rule}" for rule in rules)}
    return conversation([draw.pick(JOINS).format(**parts)], maybe_system(draw, 0.3))
