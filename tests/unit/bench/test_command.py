"""What a user can get wrong is said before a server is started; what is right makes the checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pytest
from safetensors.torch import load_file

from sglang_speed.checkpoints.convert import convert, read_source_config
from sglang_speed.checkpoints.describe import model_shape
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench import ARCH_NAMES
from sglang_speed.lab.bench.adapter import with_adapter
from sglang_speed.lab.bench.command import check_names, prepare, with_lengths, within_context
from sglang_speed.lab.bench.models import model_of, random_model, tiny_model, with_bare
from sglang_speed.lab.bench.profiles import CPU, PROFILES, REHEARSAL, of_architecture
from sglang_speed.lab.bench.rivals import MESSAGE_ID, rivals_of
from sglang_speed.lab.bench.run import adapter_of
from sglang_speed.lab.bench.scenarios import SCENARIOS
from sglang_speed.lab.bench.servers import prompt_tokens, refuse_own_flags, server_flags
from sglang_speed.lab.common.outputs import Outputs
from sglang_speed.method import ModelShape
from sglang_speed.policy_config import ShortMessages


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def speed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(llama, tmp_path_factory.mktemp("speed") / "model", prefill_layers=6, tail_tokens=3).path


def config_of(path: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return config


def test_without_names_all_scenarios_run() -> None:
    assert check_names([]) == list(SCENARIOS)
    assert check_names(["chat", "chat"]) == ["chat"]


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"--scenario prefil is not one of prefill, decode"):
        check_names(["chat", "prefil"])


def test_other_lengths_make_a_pool_for_the_longest() -> None:
    sizes = with_lengths(CPU, [2048, 512, 2048])
    assert sizes.prompt_lens == (512, 2048)
    assert len(sizes.prompt_repeats) == 2
    assert sizes.long_pool.tokens >= max(CPU.batch_sizes) * (2048 + 2 * CPU.decode_tokens)
    with pytest.raises(ConfigError, match="--length 10 is below 64"):
        with_lengths(CPU, [10])


@pytest.mark.parametrize(
    ("context_len", "measured"),
    [(131072, (1024, 4096, 8192)), (8256, (1024, 4096, 8192)), (8192, (1024, 4096)), (512, (1024, 4096, 8192))],
)
def test_prompts_that_a_models_context_is_too_short_for_are_left_out(
    context_len: int, measured: tuple[int, ...]
) -> None:
    sizes = within_context(CPU, context_len)
    assert sizes.prompt_lens == measured
    if len(measured) < len(CPU.prompt_lens):
        assert max(sizes.longest_requests[name] for name in ("prefill", "decode")) <= context_len


def test_a_model_with_a_short_context_is_refused_with_lengths_that_fit(speed: Path, tmp_path: Path) -> None:
    needed = CPU.context_len + CPU.decode_tokens
    with pytest.raises(ConfigError, match=rf"context of 2048 tokens and decode asks for {needed}: .*--length 1024"):
        prepare([speed], None, CPU, ["chat", "decode"], tmp_path)
    assert prepare([speed], None, CPU, ["chat", "step"], tmp_path).rivals


def test_a_plain_llama_cannot_be_compared_with_itself(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a SPEED checkpoint with a deep band"):
        model_of([llama], None, tmp_path)


def test_several_checkpoints_of_one_model_are_compared_under_the_names_of_their_folders(
    llama: Path, speed: Path, tmp_path: Path
) -> None:
    pop = convert(llama, tmp_path / "pop", prefill_layers=5, policy="pop").path
    model = model_of([speed, pop], None, tmp_path / "made")
    assert {name: (one.policy, one.prefill_layers) for name, one in model.rivals.items()} == {
        "model": ("speed", 6),
        "pop": ("pop", 5),
    }
    with pytest.raises(ConfigError, match="have one name, which tables show: rename a folder"):
        model_of([pop, pop], None, tmp_path / "again")


def test_the_default_model_has_the_name_that_its_user_gave(
    speed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sglang_speed.lab.bench.models.default_model_directory", lambda: speed)
    assert list(model_of([speed], None, tmp_path / "made").rivals) == ["speed-llama"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["fast"], "--policy fast is not one of speed, pop, fastkv: begin with one of these"),
        (["pop", "pop"], "--policy pop was given twice"),
        (["speed,tail"], r"--policy speed,tail has 'tail', which is no setting: write KEY=NUMBER"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(written: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rivals_of(written)


def test_policies_are_compared_at_their_usual_cutoffs_unless_told() -> None:
    written = ["speed", "pop", "fastkv", "fastkv,prefill_layers=20,kv_keep=0.1", "speed,deep_message_tokens=64"]
    bands = [rival.bands(32) for rival in rivals_of(written)]
    assert [one.prefill_layers for one in bands] == [24, 22, 16, 20, 24]
    assert bands[3].is_thinned
    assert bands[4].messages == ShortMessages(64, ((MESSAGE_ID,),))
    with pytest.raises(ConfigError, match="kv_kep"):
        rivals_of(["fastkv,kv_kep=0.1"])[0].bands(32)


def test_a_full_depth_model_of_another_shape_is_refused(speed: Path, tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny_model

    other = make_tiny_model(tmp_path / "other", num_layers=4)
    with pytest.raises(ConfigError, match=r"num_hidden_layers of .* is 8 and of .* 4"):
        model_of([speed], other, tmp_path / "made")
    with pytest.raises(ConfigError, match="is a SPEED checkpoint: --full-depth is the stock one"):
        model_of([speed], speed, tmp_path / "made")


def test_all_sides_have_the_weights_of_the_users_model(speed: Path, tmp_path: Path) -> None:
    model = model_of([speed], None, tmp_path)
    depths = {name: one.config.prefill_layers for name, one in model.contenders.items()}
    assert depths == {"stock": 8, "model": 6, "equal": 8}
    weights = {(one.path / "model.safetensors").read_bytes() for one in model.contenders.values()}
    assert len(weights) == 1
    stock = config_of(model.contenders["stock"].path)
    assert (stock["model_type"], stock["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert "speed" not in stock
    assert SpeedConfig.from_checkpoint(model.contenders["equal"].path) == SpeedConfig(8, 8, tail_tokens=3)
    assert model.contenders["model"].path == speed


@pytest.mark.parametrize("arch", ARCH_NAMES)
def test_a_random_model_can_be_loaded_and_its_words_are_its_tokens(arch: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = random_model(of_architecture(REHEARSAL, arch), tmp_path)
    stock = model.contenders["stock"].path
    loaded = AutoModelForCausalLM.from_pretrained(stock)
    assert (loaded.config.model_type, loaded.config.num_hidden_layers) == (arch, REHEARSAL.num_layers)
    assert model_shape(read_source_config(stock)) == model.shape == ModelShape.from_dict(asdict(model.shape))
    tokenizer = AutoTokenizer.from_pretrained(stock)
    ids = [0, 1, 5, 17, 511, 5]
    assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
    assert len(tokenizer) == REHEARSAL.shape.vocab_size


def test_a_dummy_model_has_no_weights_and_says_so_to_the_servers(tmp_path: Path) -> None:
    model = random_model(replace(REHEARSAL, load_format="dummy"), tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    flags = server_flags(model, model.contenders["speed"], REHEARSAL.cache_pool, REHEARSAL)
    assert flags[flags.index("--load-format") + 1] == "dummy"


def test_a_bare_side_has_none_of_the_users_flags(tmp_path: Path) -> None:
    model = with_bare(random_model(replace(REHEARSAL, load_format="dummy"), tmp_path))
    drafts = ["--speculative-algorithm", "NGRAM"]
    given = {
        name: server_flags(model, side, REHEARSAL.cache_pool, REHEARSAL, drafts)
        for name, side in model.contenders.items()
    }
    assert [name for name, flags in given.items() if flags[-2:] == drafts] == ["stock", "speed", "equal"]
    assert given["speed bare"] == given["speed"][:-2]
    with_lora = with_bare(with_adapter(random_model(REHEARSAL, tmp_path / "lora"), 4, tmp_path / "adapter"))
    stock, bare = (
        server_flags(with_lora, with_lora.contenders[side], REHEARSAL.cache_pool, REHEARSAL)
        for side in ("stock", "speed bare")
    )
    assert stock[-3:] == ["--enable-lora", "--lora-paths", f"bench={tmp_path / 'adapter'}"]
    assert "--enable-lora" not in bare
    assert [adapter_of(with_lora, with_lora.contenders[side]) for side in ("speed", "speed bare")] == ["bench", None]


def test_an_adapter_fits_every_matrix_of_the_model(tmp_path: Path) -> None:
    model = with_adapter(random_model(REHEARSAL, tmp_path / "model"), 4, tmp_path / "adapter")
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weights = load_file(model.contenders["stock"].path / "model.safetensors")
    adapted = {name: weight for name, weight in weights.items() if name.endswith("proj.weight")}
    assert len(factors) == 2 * len(adapted) == 2 * 7 * REHEARSAL.num_layers
    for name, weight in adapted.items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = (factors[f"{place}.lora_{factor}.weight"] for factor in "AB")
        assert (up @ down).shape == weight.shape
        assert len(down) == 4


@pytest.mark.parametrize(("arch", "rank", "words"), [("llama", 0, "below 1"), ("qwen3_moe", 4, "has experts")])
def test_an_adapter_that_cannot_be_is_refused(arch: str, rank: int, words: str, tmp_path: Path) -> None:
    model = random_model(replace(of_architecture(REHEARSAL, arch), load_format="dummy"), tmp_path / "model")
    with pytest.raises(ConfigError, match=f"--lora-rank .*{words}"):
        with_adapter(model, rank, tmp_path / "adapter")


@pytest.mark.parametrize("flags", [["--page-size", "16"], ["--max-total-tokens=5"], ["--kv-cache-dtype", "fp8_e5m2"]])
def test_flags_that_the_comparison_stands_on_are_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"{flags[0]} cannot be given to the servers of a comparison"):
        refuse_own_flags(["--chunked-prefill-size", "64", *flags])


def test_a_path_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"file/bench.json cannot be written"):
        Outputs(json=tmp_path / "file" / "bench.json").require_writable()
    outputs = Outputs(json=tmp_path / "new" / "bench.json", plots=tmp_path / "plots")
    outputs.require_writable()
    assert (tmp_path / "plots").is_dir()


def test_results_replace_the_old_ones_only_when_there_are_some(tmp_path: Path) -> None:
    outputs = Outputs(json=tmp_path / "bench.json")
    outputs.write_json({"scenarios": {"chat": 1}})
    outputs.write_json({"scenarios": {}})
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8")) == {"scenarios": {"chat": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize("arch", ARCH_NAMES)
@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fits_the_model_that_it_makes(name: str, arch: str, tmp_path: Path) -> None:
    profile = replace(of_architecture(PROFILES[name], arch), load_format="dummy")
    made = config_of(random_model(profile, tmp_path).contenders["stock"].path)
    assert model_shape(made) == profile.shape
    assert cast(int, made["max_position_embeddings"]) >= max(profile.longest_requests.values())
    assert profile.longest_requests["agents"] <= profile.agents_pool.tokens


def test_the_cpu_profile_has_about_100_million_parameters() -> None:
    shape = CPU.shape
    parameters = CPU.num_layers * shape.weights_per_layer + 2 * shape.vocab_size * shape.hidden_size
    assert 95e6 < parameters < 105e6


def test_both_sides_get_the_same_bytes(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, CPU)
    pool = CPU.step_pool
    stock, speed, equal = (prompt_tokens(model.shape, one, pool) for one in model.contenders.values())
    assert stock == equal == pool.tokens
    assert speed * 3 + pool.deep_tokens * 1 == pytest.approx(stock * 4, abs=3)
    assert speed * 3 + pool.deep_tokens * 1 <= stock * 4
