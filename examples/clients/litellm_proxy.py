"""A LiteLLM proxy in front of the server, as gateways have it; a client asks the proxy.

python examples/clients/litellm_proxy.py http://127.0.0.1:30000
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from openai import APIConnectionError, OpenAI

PORT, KEY = "4010", "sk-local"
litellm = str(Path(sys.executable).with_name("litellm"))
options = ["--model", "openai/default", "--api_base", f"{sys.argv[1]}/v1", "--host", "127.0.0.1", "--port", PORT]
weak = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # on loopback only
proxy = subprocess.Popen(
    [litellm, *options], env={**os.environ, **weak, "LITELLM_MASTER_KEY": KEY, "OPENAI_API_KEY": "none"}
)
try:
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key=KEY)
    for _ in range(120):
        if proxy.poll() is not None:
            sys.exit(f"the proxy ended with exit status {proxy.returncode}")
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
