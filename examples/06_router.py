"""Chats in turns through sglang-router, which sends each turn to the worker that has the KV of the turns before it.

pip install sglang-router
python -m sglang.launch_server --model speed-llama --enable-cache-report --port 30001
python -m sglang.launch_server --model speed-llama --enable-cache-report --port 30002
python -m sglang_router.launch_router --worker-urls http://127.0.0.1:30001 http://127.0.0.1:30002 --policy cache_aware
python examples/06_router.py
"""

import argparse

from openai import OpenAI

CITIES = ["Paris", "Rome", "Cairo"]
QUESTIONS = ["Which country is it in?", "What is it famous for?", "Name one dish that I should try there."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:30000")
    client = OpenAI(base_url=f"{parser.parse_args().base_url}/v1", api_key="none")

    chats = {city: [{"role": "system", "content": f"You know everything about {city}."}] for city in CITIES}
    for question in QUESTIONS:
        for city, messages in chats.items():
            messages.append({"role": "user", "content": question})
            answer = client.chat.completions.create(model="default", messages=messages, temperature=0, max_tokens=32)
            text = answer.choices[0].message.content
            messages.append({"role": "assistant", "content": text})

            details = answer.usage.prompt_tokens_details  # None where nothing was cached
            cached = details.cached_tokens if details else 0
            print(f"{city}: {question} {text}\n[{cached} of {answer.usage.prompt_tokens} prompt tokens cached]\n")


if __name__ == "__main__":
    main()
