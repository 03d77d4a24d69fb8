"""Many inputs behind the same examples, and a judge of all answers. What they share is computed once.

python -m sglang.launch_server --model speed-llama
python examples/05_few_shot_and_judge.py
"""

import argparse
from typing import Any

import sglang as sgl

ANIMALS = ["horse", "eagle", "shark", "ant", "frog", "whale"]
EXAMPLES = """An animal, and what it is like in one sentence.
Animal: dog\nSentence: A dog is a loyal pet that likes to run.\nAnimal: owl\nSentence: An owl hunts at night.\n"""
RULES = "You mark sentences about animals. 9 is true, short and clear; 1 is wrong or cannot be understood."


@sgl.function
def describe(s: Any, animal: str) -> None:
    s += EXAMPLES + "Animal: " + animal + "\nSentence:" + sgl.gen("answer", max_tokens=24, stop="\n")


@sgl.function
def judge(s: Any, animal: str, sentence: str) -> None:
    s += sgl.system(RULES) + sgl.user("Animal: " + animal + "\nSentence: " + sentence)
    s += sgl.assistant("My mark: " + sgl.gen("answer", regex="[1-9]"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:30000")
    backend = sgl.RuntimeEndpoint(parser.parse_args().base_url, chat_template_name="chatml")
    answers = describe.run_batch([{"animal": animal} for animal in ANIMALS], backend=backend, temperature=0)
    pairs = [{"animal": animal, "sentence": s["answer"]} for animal, s in zip(ANIMALS, answers, strict=True)]
    marks = judge.run_batch(pairs, backend=backend, temperature=0)
    for pair, *states in zip(pairs, answers, marks, strict=True):
        print(f"{pair['animal']}:{pair['sentence']} Mark: {states[1]['answer']}")
        for info in (state.get_meta_info("answer") for state in states):
            print(f"[{info['cached_tokens']} of {info['prompt_tokens']} prompt tokens cached]")
