"""The Responses API with the OpenAI client: an answer, the next turn, and a stream.

python examples/clients/openai_responses.py http://127.0.0.1:30000
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
model = client.models.list().data[0].id  # `default` is for chats only
turns = [{"role": "user", "content": "What is the capital of France?"}]
for question in ("What is it famous for?", None):
    answer = client.responses.create(model=model, input=turns, max_output_tokens=24, temperature=0)
    print(f"answer: {answer.output_text!r}, {answer.usage.input_tokens} prompt tokens")
    turns.append({"role": "assistant", "content": answer.output_text})
    turns.append({"role": "user", "content": question or "Name one dish."})

with client.responses.stream(model=model, input=turns, max_output_tokens=24, temperature=0) as stream:
    pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
print(f"stream: {''.join(pieces)!r} in {len(pieces)} pieces")
