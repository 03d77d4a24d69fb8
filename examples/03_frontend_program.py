"""A program in SGLang's frontend language: generate, choose, branch, fill in a pattern.

python -m sglang.launch_server --model speed-llama
python examples/03_frontend_program.py
"""

import argparse
from typing import Any

import sglang as sgl

TOPICS = ["food", "size"]


@sgl.function
def describe(s: Any, animal: str) -> None:
    s += sgl.user(f"Tell me about the {animal}.")
    s += sgl.assistant(f"The {animal}" + sgl.gen("summary", max_tokens=24, stop="."))

    s += sgl.user("Where does it live?")  # select scores each choice, and what is scored passes all layers
    s += sgl.assistant("It lives " + sgl.select("place", ["on land", "in water"]))

    branches = s.fork(len(TOPICS))  # they share the KV of everything before
    for branch, topic in zip(branches, TOPICS, strict=True):
        branch += sgl.user(f"And its {topic}?")
        branch += sgl.assistant(f"Its {topic}" + sgl.gen("answer", max_tokens=24, stop="."))
    s["topics"] = [branch["answer"] for branch in branches]

    s += sgl.user("How many legs does it have?")
    s += sgl.assistant("It has " + sgl.gen("legs", regex="[0-9]{1,2}") + " legs.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:30000")
    backend = sgl.RuntimeEndpoint(parser.parse_args().base_url, chat_template_name="chatml")
    answer = describe.run(animal="dolphin", temperature=0, backend=backend)
    for name in ("summary", "place", "topics", "legs"):
        print(f"{name}: {answer[name]!r}")
