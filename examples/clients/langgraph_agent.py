"""A LangGraph agent with one tool: the model must call it, and then answers with what it found.

python -m sglang.launch_server --model speed-llama --tool-call-parser hermes
python examples/clients/langgraph_agent.py http://127.0.0.1:30000
"""

import sys
from typing import Literal

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode


def weather(city: Literal["Paris", "Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


model = ChatOpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", model="default", temperature=0, max_tokens=48)
caller = model.bind_tools([weather], tool_choice="required", strict=True, parallel_tool_calls=False)

graph = StateGraph(MessagesState)
graph.add_node("call", lambda state: {"messages": [caller.invoke(state["messages"])]})
graph.add_node("tools", ToolNode([weather]))
graph.add_node("answer", lambda state: {"messages": [model.invoke(state["messages"])]})
for first, then in ((START, "call"), ("call", "tools"), ("tools", "answer"), ("answer", END)):
    graph.add_edge(first, then)

messages = graph.compile().invoke({"messages": [HumanMessage("How is the weather in Paris?")]})["messages"]
print(f"call: {messages[1].tool_calls[0]['args']}\nfound: {messages[2].content}\nanswer: {messages[3].content!r}")
