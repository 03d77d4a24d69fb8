"""What the card of a SPEED checkpoint keeps of the base model's, and what it says of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sglang_speed.checkpoints.card import BASE_CARD_NAME, CARD_NAME, model_name
from sglang_speed.checkpoints.convert import convert

BASE_CARD = "---\nlicense: llama3.1\nlicense_link: LICENSE\nlanguage: [en]\n---\n# Base\nBuilt with Llama\n"


def test_the_base_models_card_is_kept_beside_ours_with_its_license_in_both(llama: Path, tmp_path: Path) -> None:
    (llama / CARD_NAME).write_text(BASE_CARD)
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert (made.path / BASE_CARD_NAME).read_text() == BASE_CARD
    card = ModelCard.load(made.path / CARD_NAME)
    metadata = {"base_model": "llama", "library_name": "sglang", "license": "llama3.1", "license_link": "LICENSE"}
    assert card.data.to_dict() == metadata | {"tags": ["sglang-speed", "speed_llama"]}
    for part in ("3 of 4 layers", "| training | none: ", "pip install sglang-speed", "refuse it", BASE_CARD_NAME):
        assert part in card.text


@pytest.mark.parametrize("base_card", [BASE_CARD, None])
def test_a_card_of_ours_is_replaced_and_names_the_same_base(base_card: str | None, llama: Path, tmp_path: Path) -> None:
    if base_card is not None:
        (llama / CARD_NAME).write_text(base_card)
    first = convert(llama, tmp_path / "first", prefill_layers=3).path
    again = convert(first, tmp_path / "again", prefill_layers=2).path
    assert (again / BASE_CARD_NAME).is_file() == (base_card is not None)
    text = (again / CARD_NAME).read_text()
    assert "base_model: llama" in text
    assert "# llama, prompts in 2 of 4 layers" in text


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\n- a\n---\n", "# no metadata", "\xff"])
def test_a_card_that_nobody_can_read_is_kept(text: str, llama: Path, tmp_path: Path) -> None:
    (llama / CARD_NAME).write_text(text, encoding="latin-1")
    made = convert(llama, tmp_path / "speed", prefill_layers=3).path
    assert (made / BASE_CARD_NAME).read_text(encoding="latin-1") == text


def test_a_snapshot_of_the_hub_is_called_by_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Llama-3.1-8B" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    assert model_name(snapshot) == "meta-llama/Llama-3.1-8B"
