"""Generate without a server: the engine runs in this process and its children.

python examples/01_offline_engine.py
python examples/01_offline_engine.py --model path/to/a/speed/checkpoint
"""

import argparse

import sglang

PROMPTS = [
    "The capital of France is",
    "Water boils at",
    "The opposite of shallow is",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="speed-llama", help="a SPEED checkpoint, or speed-llama")
    args = parser.parse_args()

    with sglang.Engine(model_path=args.model, log_level="error") as engine:
        answers = engine.generate(PROMPTS, {"temperature": 0, "max_new_tokens": 24, "stop": "\n"})
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            print(f"{prompt!r} -> {answer['text']!r}")

        speed = engine.get_server_info()["internal_states"][0]["speed"]
        print(f"prompt tokens passed {speed['prefill_layers']} of {speed['num_layers']} layers")


# The engine starts processes, which import this file again.
if __name__ == "__main__":
    main()
