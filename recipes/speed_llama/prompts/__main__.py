"""`python -m recipes.speed_llama.prompts FILE --num 600`: write prompts as JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.speed_llama.prompts import chats, write_chats

parser = argparse.ArgumentParser(prog="python -m recipes.speed_llama.prompts", description="Draw prompts offline.")
parser.add_argument("path", type=Path, help="JSONL file to write; compressed where its name ends in .gz")
parser.add_argument("--num", type=int, required=True, help="number of prompts")
parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same prompts")
parser.add_argument("--own-questions", type=int, default=0, help="chats of which the model writes the questions too")
given = parser.parse_args()
write_chats(given.path, chats(given.num, given.seed, given.own_questions))
