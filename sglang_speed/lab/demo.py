"""`make demo`: start a server on a SPEED model, chat for several turns, show what each turn reused.

Everything is measured through the HTTP API, as a client sees it. The server is stopped at the end.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.local_server import start_server

QUESTIONS = (
    "What is the capital of France?",
    "And what is it famous for?",
    "What food should I try there?",
    "Write one sentence that invites a friend to visit it.",
)
MAX_ANSWER_TOKENS = 96

console = Console()


@dataclass
class Turn:
    """cached_tokens: prompt tokens found in the radix tree."""

    answer: str
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float


def main(
    model: Annotated[str, typer.Option(help="SPEED checkpoint, or speed-llama for the default model.")] = "speed-llama",
    out: Annotated[Path, typer.Option(help="JSON file to write, with the figures.")] = Path("build/demo.json"),
) -> None:
    """Chat with a SPEED model and write the measurements."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log_path = out.with_suffix(".log")
    server = start_server(model, log_path, ["--enable-cache-report"])
    try:
        with console.status(f"starting {model}, its log is {log_path}"):
            server.wait()
        speed = Client(server.url).info()["internal_states"][0]["speed"]
        turns = hold_chat(OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600))
    finally:
        server.stop()
    show(turns, speed)
    sizes = {key: speed[key] for key in ("kv_bytes_per_prompt_token", "kv_bytes_per_prompt_token_full_depth")}
    out.write_text(json.dumps({"turns": [asdict(turn) for turn in turns], **sizes}, indent=2), encoding="utf-8")
    console.print(f"written to {out}")


def hold_chat(client: OpenAI) -> list[Turn]:
    """Ask the questions in turn, each with the whole conversation before it."""
    messages: list[Any] = []
    turns = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        console.print(f"\n[bold]user[/]       {question}\n[bold]assistant[/]  ", end="")
        turns.append(ask(client, messages))
        messages.append({"role": "assistant", "content": turns[-1].answer})
    return turns


def ask(client: OpenAI, messages: list[Any]) -> Turn:
    """Stream one answer; TTFT is the time to its first text."""
    begin, first, pieces, usage = time.perf_counter(), 0.0, [], None
    stream = client.chat.completions.create(
        model="default",
        messages=messages,
        temperature=0,
        max_tokens=MAX_ANSWER_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        usage = chunk.usage or usage
        text = chunk.choices[0].delta.content if chunk.choices else None
        if text:
            first = first or time.perf_counter() - begin
            pieces.append(text)
            console.print(text, end="", markup=False, highlight=False)
    console.print()
    if usage is None or not pieces:
        raise RuntimeError("the server's answer is empty or has no usage figures; see the log beside the output file")
    details = usage.prompt_tokens_details
    return Turn("".join(pieces), usage.prompt_tokens, (details and details.cached_tokens) or 0, first)


def show(turns: list[Turn], speed: dict[str, Any]) -> None:
    """Print a line per turn and the KV bytes against full depth."""
    table = Table(title=f"prompts pass {speed['prefill_layers']} of {speed['num_layers']} layers")
    for heading in ("turn", "prompt tokens", "cached tokens", "TTFT", "prompt KV", "at full depth"):
        table.add_column(heading, justify="right")
    per_token, full = speed["kv_bytes_per_prompt_token"], speed["kv_bytes_per_prompt_token_full_depth"]
    for number, turn in enumerate(turns, start=1):
        sizes = [f"{turn.prompt_tokens * each / 1024:.0f} KiB" for each in (per_token, full)]
        counts = [str(turn.prompt_tokens), str(turn.cached_tokens)]
        table.add_row(str(number), *counts, f"{turn.ttft_s:.2f} s", *sizes)
    console.print(table)
    console.print(
        f"a prompt token takes {per_token} bytes of KV, {1 - per_token / full:.0%} less than {full} at full depth"
    )


if __name__ == "__main__":
    typer.run(main)
