"""An agent of openai-agents with one tool. It must call it first, and then answers.

python -m sglang.launch_server --model speed-llama --tool-call-parser hermes
python examples/clients/openai_agents.py http://127.0.0.1:30000
"""

import sys
from typing import Literal

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI


@function_tool
def weather(city: Literal["Paris", "Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
agent = Agent(
    name="assistant",
    instructions="You tell the weather.",
    model=OpenAIChatCompletionsModel(model="default", openai_client=client),
    model_settings=ModelSettings(tool_choice="required", temperature=0, max_tokens=48, parallel_tool_calls=False),
    tools=[weather],
)
result = Runner.run_sync(agent, "How is the weather in Paris?", max_turns=4)
for item in result.new_items:
    print(f"{item.type}: {getattr(item, 'output', None) or getattr(item.raw_item, 'arguments', None) or ''}")
print(f"answer: {result.final_output!r}")
