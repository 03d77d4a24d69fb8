"""`python -m recipes.speed_llama.prompts FILE --num 600`: write prompts as JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.speed_llama.prompts import chats, write_chats

parser = argparse.ArgumentParser(prog="python -m recipes.speed_llama.prompts", description="Generate prompts offline.")
parser.add_argument("path", type=Path, help="JSONL file to write; compressed if its name ends in .gz")
parser.add_argument("--num", type=int, required=True, help="number of prompts")
parser.add_argument("--seed", type=int, default=0, help="random seed")
parser.add_argument(
    "--own-questions", type=int, default=0, help="number of chats in which the model also writes the questions"
)
given = parser.parse_args()
write_chats(given.path, chats(given.num, given.seed, given.own_questions))
