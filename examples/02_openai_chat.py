"""A chat of several turns with the OpenAI client. Each turn reuses the KV of all turns before it.

python -m sglang.launch_server --model speed-llama --enable-cache-report
python examples/02_openai_chat.py
"""

import argparse

from openai import OpenAI

QUESTIONS = [
    "What is the capital of France?",
    "What is it famous for?",
    "Name one dish that I should try there.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:30000")
    client = OpenAI(base_url=f"{parser.parse_args().base_url}/v1", api_key="none")

    messages = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer = client.chat.completions.create(model="default", messages=messages, temperature=0, max_tokens=48)
        text = answer.choices[0].message.content
        messages.append({"role": "assistant", "content": text})

        details = answer.usage.prompt_tokens_details  # None where nothing was cached
        cached = details.cached_tokens if details else 0
        print(f"user: {question}\nassistant: {text}")
        print(f"[{cached} of {answer.usage.prompt_tokens} prompt tokens cached]\n")


if __name__ == "__main__":
    main()
