"""Which requests are measured, and that the model's own answers come from its own distribution."""

from __future__ import annotations

import zlib
from collections import Counter
from copy import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat, Conversation, Message
from sglang_speed.lab.cutoff.evidence import REQUIREMENTS
from sglang_speed.lab.cutoff.model import load_model
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.lab.cutoff.texts import (
    BUILT_IN_QUOTAS,
    Limits,
    built_in_prompts,
    choose,
    generate_responses,
    requests_in_chats,
    requests_of,
    tool_turns,
)
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.tiny_models import EOS_ID, ids_of
from tests.unit.cutoff.conftest import write_chats


@pytest.fixture(scope="module")
def small_model(plain_directory: Path) -> SpeedLlamaForCausalLM:
    return load_model(plain_directory, anchor_tokens=1, tail_tokens=3)


@pytest.fixture(scope="module")
def chat_format(plain_directory: Path) -> ChatFormat:
    return ChatFormat.of_checkpoint(plain_directory)


def test_every_turn_is_a_request_with_all_before_it_as_its_prompt() -> None:
    conversation = Conversation(tuple(range(20)), (range(0, 2), range(5, 8), range(12, 20)))
    found = list(requests_of(conversation))
    assert found == [Request(tuple(range(8)), 5), Request(tuple(range(20)), 12)]
    assert [one.response_len for one in found] == [3, 8]


def test_prompts_without_a_gap_and_long_requests_are_left_out(
    small_model: SpeedLlamaForCausalLM, chat_format: ChatFormat, tmp_path: Path
) -> None:
    short, long = ("user", "Hi"), ("user", "x" * 100)
    chats = [[short, ("assistant", "Hello")], [long, ("assistant", "y")], [short, ("assistant", "Hey")]]
    path = write_chats(tmp_path / "chats", *chats)
    policy = small_model.policy
    assert len(requests_in_chats(path, chat_format, policy, Limits(8, 1000, 0))) == 3
    kept = requests_in_chats(path, chat_format, policy, Limits(8, 64, 0))
    ends = {chat_format.tokenizer.decode(request.token_ids)[-8:] for request in kept}
    assert ends == {"llo<eos>", "Hey<eos>"}
    wide = load_model(Path(small_model.name_or_path), anchor_tokens=1, tail_tokens=200).policy
    with pytest.raises(ConfigError, match=r"chats has 0 of 2 needed answers, out of 3, with at most 1000 tokens"):
        requests_in_chats(path, chat_format, wide, Limits(8, 1000, 0))


def test_a_single_answer_has_no_error_and_is_refused(
    small_model: SpeedLlamaForCausalLM, chat_format: ChatFormat, tmp_path: Path
) -> None:
    path = write_chats(tmp_path / "chats", [("user", "Question"), ("assistant", "Answer")])
    with pytest.raises(ConfigError, match=r"has 1 of 2 needed answers, out of 1, with .*: give more"):
        requests_in_chats(path, chat_format, small_model.policy, Limits(8, 1000, 0))


def test_samples_are_drawn_by_the_seed(
    small_model: SpeedLlamaForCausalLM, chat_format: ChatFormat, tmp_path: Path
) -> None:
    chats = [[("user", f"Question {number}"), ("assistant", "Answer")] for number in range(30)]
    path = write_chats(tmp_path / "chats", *chats)
    first, again, other = (
        requests_in_chats(path, chat_format, small_model.policy, Limits(10, 1000, seed)) for seed in (0, 0, 1)
    )
    assert len(set(first)) == 10
    assert first == again
    assert first != other


CALL = {"role": "assistant", "content": '{"name": "f", "arguments": {}}'}
SAID = {"role": "assistant", "content": "The name is f."}
SCENARIO_SIZES, RESULT = {"role": "user", "content": "?"}, {"role": "tool", "content": "1"}
AS_FIELD = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([SCENARIO_SIZES, SAID], set()),
        ([SCENARIO_SIZES, CALL], {0}),
        ([SCENARIO_SIZES, AS_FIELD], {0}),
        ([SCENARIO_SIZES, SAID, SCENARIO_SIZES, CALL, RESULT, SAID], {1, 2}),
        ([SCENARIO_SIZES, SAID, RESULT, SAID], {1}),
    ],
)
def test_a_call_and_what_comes_after_it_use_tools(
    chat_format: ChatFormat, messages: list[Message], turns: set[int]
) -> None:
    assert tool_turns(Chat(messages), chat_format) == turns


def test_tools_count_where_the_chat_template_shows_them(chat_format: ChatFormat) -> None:
    tools = [{"name": "f"}]
    chat = Chat([SCENARIO_SIZES, SAID, SCENARIO_SIZES, SAID], tools)
    assert tool_turns(chat, chat_format) == set()
    shows = copy(chat_format.tokenizer)
    shows.chat_template = "{{ tools }}" + shows.chat_template
    assert tool_turns(chat, ChatFormat(shows, [EOS_ID])) == {0, 1}


def test_places_are_kept_for_what_is_rare() -> None:
    candidates = ["a"] * 10 + ["b"] + ["a"] * 10 + ["bc", "c"]
    assert choose(candidates, set, 5, {"b": 2, "c": 1}) == ["a", "a", "b", "bc", "c"]
    assert choose(candidates, set, 4, {"d": 3}) == ["a"] * 4
    assert choose(candidates, set, 2, {"b": 1, "c": 9}) == ["b", "bc"]
    assert choose(["a"], set, 4, {"b": 2}) == ["a"]


class CoarseFormat(ChatFormat):
    """A token is a number of characters: common tokenizers have 3 to 5 of English."""

    def __init__(self, other: ChatFormat, chars: int) -> None:
        super().__init__(other.tokenizer, sorted(other.stop_ids))
        self.chars = chars

    def encode(self, text: str) -> list[int]:
        return [zlib.crc32(text[start : start + self.chars].encode()) for start in range(0, len(text), self.chars)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chars", [3, 4, 5])
def test_built_in_prompts_have_what_a_recommendation_needs(chat_format: ChatFormat, chars: int, seed: int) -> None:
    """At the command's defaults."""
    prompts = built_in_prompts(
        CoarseFormat(chat_format, chars), SpeedPolicy(SpeedConfig(4, 4)), Limits(64, 1024, seed), 64
    )
    found = Counter(kind for prompt in prompts for kind in prompt.kinds)
    assert len(set(prompts)) == 64
    assert all(found[kind] >= quota for kind, quota in BUILT_IN_QUOTAS.items())
    assert all(quota >= REQUIREMENTS[kind].needed for kind, quota in BUILT_IN_QUOTAS.items())
    assert len(prompts) >= REQUIREMENTS["answers"].needed


def test_more_samples_than_built_in_prompts_are_refused(chat_format: ChatFormat) -> None:
    with pytest.raises(ConfigError, match="--samples 129 is more than the 128 built-in prompts: lower it, or give"):
        built_in_prompts(chat_format, SpeedPolicy(SpeedConfig(4, 4)), Limits(129, 4096, 0), 64)


def test_answers_are_drawn_from_the_model_at_full_depth(small_model: SpeedLlamaForCausalLM) -> None:
    """What is said first to one prompt many times has the stock model's frequencies; other prompts pad the batch."""
    prompt, longer = ids_of("Say something now"), ids_of("A prompt that is longer than the other one")
    said = generate_responses(small_model, [prompt, longer] * 300, [EOS_ID], 2, seed=0)
    firsts = torch.tensor([one.token_ids[one.prompt_len] for one in said if one.prompt_len == len(prompt)])
    stock = LlamaForCausalLM.from_pretrained(small_model.name_or_path)
    with torch.no_grad():
        expected = stock(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    frequencies = torch.bincount(firsts, minlength=len(expected)) / len(firsts)
    error = (expected * (1 - expected) / len(firsts)).sqrt()
    assert len(firsts) == 300
    assert torch.all((frequencies - expected).abs() <= 5 * error + 1e-3)


def test_an_answer_ends_with_its_stop_token(small_model: SpeedLlamaForCausalLM) -> None:
    stop_ids = [EOS_ID, *ids_of("abcdefghijklmnopqrstuvwxyz")[1:]]
    prompts = [ids_of("One prompt"), ids_of("Another, longer prompt")] * 4
    finished: list[int] = []
    said = generate_responses(small_model, prompts, stop_ids, 12, seed=0, advance=finished.append)
    assert sum(finished) == len(prompts)
    assert sorted(one.token_ids[: one.prompt_len] for one in said) == sorted(map(tuple, prompts))
    for one in said:
        *before, last = one.token_ids[one.prompt_len :]
        assert not set(before) & set(stop_ids)
        assert last in stop_ids or one.response_len == 12
    assert any(one.response_len < 12 for one in said)


@pytest.mark.parametrize(
    ("limits", "words"), [((1, 1024, 0), "--samples 1 is below 2"), ((8, 10, 0), "--max-tokens 10")]
)
def test_limits_that_measure_nothing_are_refused(limits: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limits(*limits)
