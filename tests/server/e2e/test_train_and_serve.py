"""From prompts to a served checkpoint: `train` with a server of its own, then SGLang on the result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_speed.checkpoints.convert import convert
from tests.server.conftest import DEEP_TOKENS, SERVER_FLAGS
from tests.server.e2e.asking import Asker
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import running_server
from tests.tiny_models import ids_of, make_tiny_model
from tests.unit.training.chats import TEMPLATE

pytestmark = pytest.mark.slow  # two servers and a training run, minutes on two cores

NUM_CHATS = 12
NUM_HELD_OUT = 3
SETTINGS = (
    "--prefill-layers",
    "6",
    "--tail-tokens",
    "3",
    "--epochs",
    "2",
    "--batch-size",
    "4",
    "--learning-rate",
    "1e-2",
    "--temperature",
    "0",
)
PROMPT = ids_of("<user>A question that is longer than its anchor and its tail?\n<assistant>")


def test_what_train_makes_of_prompts_is_served_as_the_reference_says(tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "source")
    (source / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    questions = [f"Question {number}?" for number in range(NUM_CHATS)]
    chats = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(chat)}\n" for chat in chats), encoding="utf-8")
    command = [sys.executable, "-m", "sglang_speed.lab.cli", "train", str(source), str(tmp_path / "trained")]
    command += [
        "--data",
        str(tmp_path / "prompts.jsonl"),
        "--answer-tokens",
        "12",
        "--held-out",
        str(NUM_HELD_OUT / NUM_CHATS),
        *SETTINGS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"trained on {NUM_CHATS - NUM_HELD_OUT} chats" in done.stderr

    answered = [json.loads(line) for line in (tmp_path / "trained.work" / "answered.jsonl").read_text().splitlines()]
    assert [line["messages"][0]["content"] for line in answered] == questions
    assert all(line["messages"][1]["content"] for line in answered)

    untrained = convert(source, tmp_path / "untrained", prefill_layers=6, tail_tokens=3).path
    before, after = Reference(untrained), Reference(tmp_path / "trained")
    env = {"SGLANG_SPEED_DEEP_TOKENS": str(DEEP_TOKENS)}
    with running_server(tmp_path / "trained", *SERVER_FLAGS, env=env) as server:
        answer = Asker(server, after).require_exact(PROMPT)
    assert answer["output_ids"] != before.greedy(PROMPT, len(answer["output_ids"])), "training changed nothing"
