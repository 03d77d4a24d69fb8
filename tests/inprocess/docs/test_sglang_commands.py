"""The SGLang commands on our pages have flags that SGLang knows."""

from __future__ import annotations

import argparse

import pytest
from sglang.srt.server_args import ServerArgs

from tests.commands_in_docs import arguments, commands

PROGRAM = "python -m sglang.launch_server"


@pytest.mark.parametrize(("page", "command"), commands(PROGRAM))
def test_sglang_knows_these_flags(page: str, command: str) -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    further = ["--model-path", "MODEL"] if "..." in command else []
    parser.parse_args([*arguments(PROGRAM, command), *further])
