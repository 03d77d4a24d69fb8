"""What the pages say is so: commands have such options, messages are said in such words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
import typer

from sglang_speed.lab.cli import app
from tests.commands_in_docs import ROOT, arguments, commands

PROGRAM = "sglang-speed"


@pytest.mark.parametrize(("page", "command"), commands(PROGRAM))
def test_a_command_of_ours_has_these_options(page: str, command: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group | typer.core.TyperGroup)
    context = group.make_context(PROGRAM, [], resilient_parsing=True)
    name, *rest = arguments(PROGRAM, command)
    if name.startswith("--"):
        return
    found = group.get_command(context, name)
    assert found is not None, f"{page}: {command}"
    if rest:
        found.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", [each.name for each in app.registered_commands])
def test_each_command_has_an_example_that_is_right(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands[name]
    examples = re.findall(rf"^Example: ({PROGRAM} {name} .*)$", command.help or "", re.MULTILINE)
    assert len(examples) == 1
    command.make_context(name, arguments(PROGRAM, examples[0])[1:])


def test_commands_are_found() -> None:
    found = commands(PROGRAM)
    assert {command.split()[1] for _, command in found} >= {each.name for each in app.registered_commands}


def messages_in_source() -> str:
    """All texts of the package, those that are written in pieces joined."""
    files = sorted((ROOT / "sglang_speed").rglob("*.py"))
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return "\n".join(map(_text_of, nodes))


def _text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text_of, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def messages_in_page() -> list[str]:
    """The quoted parts of the first columns of the tables of messages."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## Not a message")[0]
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    return [quoted for row in rows for quoted in re.findall(r"`([^`]+)`", row)]


def test_messages_of_the_troubleshooting_page_are_said() -> None:
    quoted, said = messages_in_page(), messages_in_source()
    assert len(quoted) > 10
    assert [each for each in quoted if each not in said] == []


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w/]+\.md", Path(ROOT, "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert named - pages == {"contributing.md"}
    assert pages - named == set()
