"""What each scenario asks, and what it makes of the answers: on servers that do arithmetic only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.load import Answer, Load, Prompts
from sglang_speed.lab.bench.models import Contender, Model, with_bare
from sglang_speed.lab.bench.profiles import CPU, REHEARSAL, AgentSizes, Profile
from sglang_speed.lab.bench.results import Figure, Point, Reading, Row, rows
from sglang_speed.lab.bench.rivals import rivals_of
from sglang_speed.lab.bench.scenarios import SCENARIOS, Setting, agents, capacity
from sglang_speed.lab.bench.scenarios.base import Scenario, alternating
from sglang_speed.lab.bench.scenarios.capacity import Capacity
from sglang_speed.lab.bench.scenarios.conversations import num_users, turns
from sglang_speed.lab.bench.scenarios.decode import shared_step
from sglang_speed.lab.bench.servers import prompt_tokens
from sglang_speed.lab.common.client import RequestFailed
from sglang_speed.method.cost import Rates
from tests.unit.bench.fake_client import FakeClient, common_prefix

RATES = Rates(flops=1e12, bandwidth=1e10)


class FakeTokenizer(SimpleNamespace):
    def __len__(self) -> int:
        return 512


def setting_for(scenario: Scenario, profile: Profile = CPU) -> Setting:
    full = SpeedConfig(profile.num_layers, profile.num_layers)
    rivals = {rival.name: rival.bands(profile.num_layers) for rival in profile.rivals}
    configs = {"stock": full, **rivals, "equal": full}
    model = Model(profile.shape, {name: Contender(name, Path(), config) for name, config in configs.items()})
    pool = scenario.pool(profile)
    clients: Any = {
        side: FakeClient(configs[side], prompt_tokens(profile.shape, model.contenders[side], pool))
        for side in scenario.sides(model)
    }
    return Setting(
        model,
        profile,
        RATES,
        clients,
        Prompts(FakeTokenizer(all_special_ids=[0, 1], bos_token_id=0), profile.shape.vocab_size),
    )


@pytest.fixture(autouse=True)
def polls_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(agents, "POLL_SECONDS", 0.001)


async def all_of(scenario: Scenario, setting: Setting) -> list[Reading | Point]:
    return [measured async for measured in scenario.run(setting)]


def play(name: str, profile: Profile = CPU) -> tuple[dict[str, Row], list[Point], Setting]:
    scenario = SCENARIOS[name]
    setting = setting_for(scenario, profile)

    measured = asyncio.run(all_of(scenario, setting))
    table = rows(sample for one in measured if isinstance(one, Reading) for sample in one.samples)
    return {row.figure.name: row for row in table}, [one for one in measured if isinstance(one, Point)], setting


def test_prefill_asks_all_sides_the_same_prompts_and_finds_the_ratio_of_layers() -> None:
    table, points, setting = play("prefill")
    row = table["TTFT, 8192 tokens"]
    assert row.ratio == pytest.approx(32 / 24)
    assert row.figure.is_headline
    assert row.figure.ceiling == pytest.approx(4 / 3, abs=0.005)
    assert len(row.stock) == len(row.rival) == CPU.prompt_repeats[-1]
    hit = table["TTFT, 64 tokens behind 8192 cached"]
    assert 1 < hit.figure.ceiling < 4 / 3
    assert max(hit.stock) < min(row.stock) / 10
    stock, speed = (setting.clients[side].asked for side in ("stock", "speed"))  # type: ignore[attr-defined]
    assert stock == speed
    assert {(point.side, point.x) for point in points} == {
        (side, n) for side in ("stock", "speed") for n in CPU.prompt_lens
    }


def test_a_prompt_that_was_cached_is_no_cold_one() -> None:
    scenario = SCENARIOS["prefill"]
    setting = setting_for(scenario)
    known = setting.prompts.prompt("long", 0, 1024)
    asyncio.run(setting.clients["speed"].ask(known, 1))
    with pytest.raises(RequestFailed, match=r"1008 of 1024 tokens of a cold prompt were cached"):
        asyncio.run(all_of(scenario, setting))


def test_a_decode_step_is_one_in_which_all_requests_take_part() -> None:
    """The first request starts 1 s early and the second ends 1 s late: their lone steps do not count."""
    first = Answer(0.0, (1.0, 1.5, 2.0, 3.0, 4.0), 8, 0, ())
    second = Answer(0.0, (2.0, 3.0, 4.0, 4.5, 5.0), 8, 0, ())
    assert shared_step([first, second]) == 1.0
    with pytest.raises(RequestFailed, match="did not decode together"):
        shared_step([first, Answer(0.0, (3.5, 9.0), 8, 0, ())])


def test_who_goes_first_changes_with_every_repeat() -> None:
    assert [alternating(("stock", "speed"), repeat)[0] for repeat in range(4)] == ["stock", "speed", "stock", "speed"]


def test_decoding_is_timed_behind_prompts_that_are_in_the_tree() -> None:
    table, _, setting = play("decode")
    assert set(table) == {"TPOT after 8192 tokens, batch 1", "TPOT after 8192 tokens, batch 4"}
    client: Any = setting.clients["speed"]
    fills = [asked for asked in client.asked if asked == (8192, 1)]
    timed = [asked for asked in client.asked if asked == (8192, CPU.decode_tokens)]
    assert len(timed) == CPU.repeats * (1 + 4) + 1 + 1  # one warms up, one is for the plot
    assert len(fills) == 4 + 1  # each prompt once, and again for the plot


def test_decode_ceilings_are_those_of_the_design() -> None:
    """A step reads the weights and all KV once."""
    scenario = SCENARIOS["decode"]
    row = scenario.figure(setting_for(scenario), 4, "speed")  # type: ignore[attr-defined]
    shape = CPU.shape
    weights = 2 * (32 * shape.weights_per_layer + shape.vocab_size * shape.hidden_size)
    kv = 4 * 8192 * shape.kv_bytes_per_layer
    assert row.ceiling == pytest.approx((weights + 32 * kv) / (weights + 24 * kv))


def test_a_bare_rival_has_no_ceiling_since_stock_does_what_it_is_spared() -> None:
    setting = setting_for(SCENARIOS["decode"])
    with_both = replace(setting, model=with_bare(setting.model))
    figures = with_both.per_rival(lambda _: Figure("decode", "TPOT", "s", ceiling=1.3, target=1.2))
    assert [(one.ceiling, one.target) for one in figures.values()] == [(1.3, 1.2), (None, None)]


def test_capacity_counts_what_is_still_there_and_runs_at_once() -> None:
    table, _, _setting = play("capacity")
    tokens = table["prompt tokens in the pool"]
    assert tokens.stock == (CPU.cache_pool.tokens,)
    pool = CPU.cache_pool
    assert tokens.ratio == pytest.approx((pool.tokens * 32 - pool.deep_tokens * 8) // 24 / pool.tokens)
    assert tokens.ratio >= 1.30
    stay = table["prompts of 384 tokens that stay"]
    each = CPU.capacity_prompt + CPU.capacity_tokens
    assert stay.stock == (CPU.cache_pool.tokens // each,)
    assert stay.rival == (tokens.rival[0] // each,)
    assert stay.figure.ceiling == 20 / 15
    running = table["requests that run at once"]
    assert (running.stock, running.rival) == ((15,), (20,))


def test_running_requests_are_counted_after_a_decode_step_with_all_of_them() -> None:
    """However long a busy machine takes until then: reports are repeated, and a request in prefill is in none."""
    reports = [
        *[Load(0, 3, 0)] * 3,  # the last one has not arrived
        *[Load(1, 3, 101)] * 40,  # it has: the next prefill has room for another
        Load(1, 2, 201),
        *[Load(2, 2, 202)] * 40,
        Load(2, 2, 204),
    ]

    class Told(FakeClient):
        def load(self) -> Load:
            return reports.pop(0)

    client: Any = Told(SpeedConfig(4, 4), 220)
    assert asyncio.run(Capacity().count_running(client, [[number] * 100 for number in range(4)], 10)) == 2
    assert not reports


def test_requests_that_were_never_seen_together_are_no_count() -> None:
    client: Any = FakeClient(SpeedConfig(4, 4), 220)
    client.delay_steps = lambda seconds: None
    with pytest.raises(RequestFailed, match="4 requests were answered before the running ones"):
        asyncio.run(Capacity().count_running(client, [[number] * 100 for number in range(4)], 10))


def test_a_chat_above_the_full_depth_capacity_misses_in_stock_and_hits_in_speed() -> None:
    table, points, _ = play("chat", replace(CPU, chat=replace(CPU.chat, working_sets=(0.8, 1.2))))
    below, above = table["hit rate, working set 0.8x"], table["hit rate, working set 1.2x"]
    assert below.rival == pytest.approx(below.stock, abs=0.02)
    assert above.rival[0] > 0.6 > 0.2 > above.stock[0]
    assert table["mean TTFT, working set 0.8x"].figure.target is None
    ttft = table["mean TTFT, working set 1.2x"]
    assert ttft.figure.is_headline
    assert ttft.figure.target == 2.0
    assert ttft.ratio > 2.0
    last = [point for point in points if point.series == "hit rate by turn, 1.2" and point.x == CPU.chat.num_turns]
    assert {point.side: point.y > 0.9 for point in last} == {"stock": False, "speed": True}


def test_a_chat_that_fits_in_neither_tree_has_no_ceiling_and_no_target() -> None:
    table, _, _ = play("chat", replace(CPU, chat=replace(CPU.chat, working_sets=(1.6,))))
    figure = table["mean TTFT, working set 1.6x"].figure
    assert figure.ceiling is None
    assert figure.target is None


def test_the_working_set_is_what_its_name_says() -> None:
    for working_set in CPU.chat.working_sets:
        total = num_users(CPU, working_set) * CPU.chat.final_len
        assert total == pytest.approx(working_set * CPU.cache_pool.tokens, abs=CPU.chat.final_len / 2)
    assert turns(CPU.chat)[-1][0] + CPU.chat.answer_tokens == CPU.chat.final_len


def test_a_conversation_carries_what_the_server_answered() -> None:
    _, _, setting = play("chat")
    client: Any = setting.clients["stock"]
    chat = CPU.chat
    lengths = [chat.first_prompt + turn * (chat.user_tokens + chat.answer_tokens) for turn in range(chat.num_turns)]
    assert sorted({length for length, _ in client.asked}) == lengths


def test_agents_share_their_system_prompt() -> None:
    table, _, _setting = play("tree")
    tree = CPU.tree
    hits = table["hit rate"]
    prompt = sum(tree.system_tokens + tree.observation_tokens + step * 112 for step in range(tree.num_steps))
    missed = sum(tree.observation_tokens + (step > 0) for step in range(tree.num_steps))
    assert hits.stock[-1] == pytest.approx(1 - missed / prompt, abs=0.01)
    assert 1 < table["mean TTFT, 4 agents"].figure.ceiling < 4 / 3  # type: ignore[operator]


def test_agents_act_a_few_at_once_and_send_what_they_were_answered() -> None:
    table, points, setting = play("agents")
    sizes = CPU.agents
    assert sorted(sizes.at_once) == [2, 3, 4]
    for at_once in sizes.at_once:
        assert sizes.working_set(at_once) > setting.clients["stock"].server.prompt_tokens
        ttft = table[f"mean TTFT, {at_once} agents at once"]
        assert (ttft.figure.target, ttft.figure.is_headline) == (2.0, True)
        assert ttft.figure.ceiling > 2  # type: ignore[operator]
        assert ttft.ratio > 1  # type: ignore[operator]
        assert table[f"p95 of TTFT, {at_once} agents at once"].stock > ttft.stock
        assert 1 <= max(table[f"requests at once, of {at_once}"].rival) <= at_once
        assert 0.5 < table[f"hit rate, {at_once} agents at once"].rival[0] < 1
    asked = sorted(length for prompts in sizes.prompts for length in prompts)
    assert sorted(point.x for point in points if point.side == "speed") == asked


def test_agents_that_fit_in_stocks_pool_have_the_ceiling_of_the_layers_and_no_target() -> None:
    tokens = CPU.agents.working_set(2)
    table, _, _ = play("agents", replace(CPU, agents_pool=replace(CPU.agents_pool, tokens=tokens)))
    fits, does_not = (table[f"mean TTFT, {at_once} agents at once"].figure for at_once in (2, 3))
    assert fits.target is None
    assert 1 < fits.ceiling < 4 / 3 < 2 < does_not.ceiling  # type: ignore[operator]
    assert does_not.target == 2.0


def test_a_policy_whose_pool_is_not_larger_than_stocks_has_no_target_with_agents() -> None:
    table, _, _ = play("agents", replace(CPU, rivals=rivals_of(["pop"])))
    targets = [table[f"mean TTFT, {at_once} agents at once"].figure.target for at_once in CPU.agents.at_once]
    assert targets == [None, None, None]


def test_the_working_set_of_agents_is_the_most_that_is_open_in_any_round() -> None:
    """Own tokens by round, two at once: 10, 40, 70 and 10, 80; then 10, 20 beside what is left of the first."""

    class Sizes(AgentSizes):
        prompts = [[110, 140, 170], [110, 180], [110, 120]]  # noqa: RUF012

    sizes = Sizes(100, 10, (0, 0), 10, (0, 0), num_agents=3, at_once=(1, 2, 3))
    assert [sizes.working_set(at_once) for at_once in (1, 2, 3)] == [180, 220, 240]


def test_messages_of_agents_begin_as_the_checkpoint_says() -> None:
    setting = setting_for(SCENARIOS["agents"])
    setting.prompts.message = [2]
    message = SCENARIOS["agents"].message(setting, "task", 0, 48)  # type: ignore[attr-defined]
    assert (len(message), message[0], message[-1]) == (48, 2, 2)
    assert 2 not in message[1:-1]


def test_every_rival_has_its_own_ceiling_and_the_same_samples_of_stock() -> None:
    rivals = rivals_of(["speed", "pop", "fastkv", "fastkv,prefill_layers=20,kv_keep=0.1"])
    scenario = SCENARIOS["prefill"]
    setting = setting_for(scenario, replace(CPU, rivals=rivals))
    measured = asyncio.run(all_of(scenario, setting))
    table = rows(sample for one in measured if isinstance(one, Reading) for sample in one.samples)
    longest = {row.figure.rival: row for row in table if row.figure.name == "TTFT, 8192 tokens"}
    assert list(longest) == [rival.name for rival in rivals]
    assert len({row.stock for row in longest.values()}) == 1
    ceilings = [row.figure.ceiling for row in longest.values()]
    assert ceilings == pytest.approx([1.33, 1.43, 1.79, 1.49], abs=0.01)


def test_overhead_compares_stock_with_full_depth_and_drops_the_first_round() -> None:
    table, _, setting = play("overhead")
    assert {row.figure.rival for row in table.values()} == {"equal"}
    assert all(row.ratio == 1.0 and row.figure.ceiling == 1.0 and row.figure.target == 0.98 for row in table.values())
    assert all(len(row.stock) == CPU.overhead_repeats for row in table.values())
    assert len(setting.clients["stock"].asked) == CPU.overhead_repeats + 1  # type: ignore[attr-defined]


def test_a_step_of_the_tiny_model_is_bounded_by_its_own_bytes() -> None:
    table, _, _ = play("step", replace(REHEARSAL, overhead_repeats=2))
    (row,) = table.values()
    assert row.figure.ceiling is not None
    assert 1 < row.figure.ceiling < 8 / 6
    assert len(row.stock) == len(row.rival) == 2


def test_prompts_are_the_same_for_every_side_and_differ_from_each_other() -> None:
    tokenizer = FakeTokenizer(all_special_ids=[0, 1], bos_token_id=0)
    one, other = Prompts(tokenizer, 512), Prompts(tokenizer, 512)
    assert one.prompt("a", 1, 50) == other.prompt("a", 1, 50)
    assert one.prompt("a", 1, 50)[1:] != one.prompt("a", 2, 50)[1:]
    assert one.prompt("a", 1, 50)[0] == 0
    assert not {0, 1} & set(one.prompt("a", 1, 500)[1:])
    assert common_prefix(one.prompt("a", 1, 100), one.prompt("a", 1, 200)) == 1
    assert max(Prompts(tokenizer, 100).prompt("a", 1, 2000)) < 100
