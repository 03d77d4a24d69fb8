"""An agent with a calculator. A regex makes each call valid; each step reuses the KV of all steps before it.

python -m sglang.launch_server --model speed-llama --enable-cache-report
python examples/04_agent.py
"""

import argparse
import json
import operator

from openai import OpenAI

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
CALL = r'\{"tool": "calculator", "left": [1-9][0-9]{0,3}, "operator": "[-+*]", "right": [1-9][0-9]{0,3}\}'
TASKS = ["How much is 12 * 34?", "How much is 500 - 123?", "How much is 7 + 58?"]


def ask(client: OpenAI, messages: list[dict[str, str]], question: str, **options: object) -> str:
    """Put a question and the model's answer at the end of the conversation."""
    messages.append({"role": "user", "content": question})
    answer = client.chat.completions.create(model="default", messages=messages, temperature=0, **options)
    text, usage = answer.choices[0].message.content, answer.usage
    messages.append({"role": "assistant", "content": text})
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    print(f"user: {question}\nassistant: {text}\n[{cached} of {usage.prompt_tokens} prompt tokens cached]\n")
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url", nargs="?", default="http://127.0.0.1:30000")
    client = OpenAI(base_url=f"{parser.parse_args().base_url}/v1", api_key="none")
    messages = [{"role": "system", "content": "You call a calculator with two numbers and an operator."}]
    for task in TASKS:
        call = json.loads(ask(client, messages, task, max_tokens=80, extra_body={"regex": CALL}))
        left, sign, right = call["left"], call["operator"], call["right"]
        result = f"{left} {sign} {right} = {OPERATORS[sign](left, right)}"
        ask(client, messages, f"{result}. Tell me the result in a sentence.", max_tokens=32)
