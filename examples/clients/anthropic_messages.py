"""The Messages API with Anthropic's client: an answer and a stream.

python examples/clients/anthropic_messages.py http://127.0.0.1:30000
"""

import sys

from anthropic import Anthropic

client = Anthropic(base_url=sys.argv[1], api_key="none")
asked = {
    "model": "default",
    "system": "You answer in a sentence.",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 24,
    "extra_body": {"temperature": 0},
}
answer = client.messages.create(**asked)
print(f"answer: {answer.content[0].text!r}, {answer.usage.input_tokens} prompt tokens")

with client.messages.stream(**asked) as stream:
    pieces = list(stream.text_stream)
print(f"stream: {''.join(pieces)!r} in {len(pieces)} pieces")
