"""A LiteLLM proxy in front of the server, as gateways have it; a client asks the proxy.

python examples/clients/litellm_proxy.py http://127.0.0.1:30000
"""

import subprocess
import sys
import time
from pathlib import Path

from openai import APIConnectionError, OpenAI

PORT = "4010"
litellm = str(Path(sys.executable).with_name("litellm"))
options = ["--model", "openai/default", "--api_base", f"{sys.argv[1]}/v1", "--host", "127.0.0.1", "--port", PORT]
proxy = subprocess.Popen([litellm, *options, "--telemetry", "False"], env={"OPENAI_API_KEY": "none", "HOME": "/tmp"})
try:
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none")
    for _ in range(120):
        try:
            client.models.list()
            break
        except APIConnectionError:
            time.sleep(1)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    answer = client.chat.completions.create(model="openai/default", messages=asked, temperature=0, max_tokens=24)
    print(f"answer: {answer.choices[0].message.content!r}, {answer.usage.prompt_tokens} prompt tokens")
finally:
    proxy.terminate()
    proxy.wait()
