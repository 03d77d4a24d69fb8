"""Settings that a SPEED model is not served with: refused before any process is started, with the flag's name."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sglang.srt.plugins import load_plugins

load_plugins()  # before SGLang's modules are imported by name, as its own processes do

from sglang.srt.model_executor.cuda_graph_config import CudaGraphConfig, PhaseConfig  # noqa: E402
from sglang.srt.server_args import ServerArgs  # noqa: E402

from sglang_speed.errors import ConfigError  # noqa: E402
from sglang_speed.features import REFUSALS, Refusal  # noqa: E402
from sglang_speed.host.adapter import HOST  # noqa: E402
from sglang_speed.host.versions import installed_version  # noqa: E402
from sglang_speed.serving.refusals import refuse_unsupported  # noqa: E402
from tests.catalogue import MODELS  # noqa: E402
from tests.host import IS_OLDEST, resolve, resolved_with  # noqa: E402
from tests.tiny_models import make_tiny_model  # noqa: E402

VALUES: dict[str, Any] = {
    "--speculative-algorithm": "NGRAM" if IS_OLDEST else "EAGLE",
    "--lora-paths": {"adapter": "path"},
    "--lora-backend": "triton_v2",
    "--disaggregation-mode": "prefill",
    "--decoupled-spec-role": "verifier",
    "--page-size": 2**20,
    "--pp-size": 2,
    "--nnodes": 2,
    "--attn-cp-size": 2,
    "--dcp-size": 2,
    "--hicache-storage-backend": "mooncake",
    "--hicache-host-memory-mode": "buffer_only",
    "--return-hidden-states-mode": "last",
    "--dllm-algorithm": "LowConfidence",
    "--elastic-ep-backend": "mooncake",
    "--rl-quant-profile": "profile.json",
    "--quantization": "fp8",
    "--kv-cache-dtype": "nvfp4",
    "--quantization-param-path": "scales.json",
    "--model-impl": "transformers",
    "--load-format": "gguf",
    "--radix-cache-backend": "other",
    "--kv-canary": "log",
    "--ep-size": 2,
    "--moe-dp-size": 2,
    "--dwdp-size": 2,
    "--moe-dense-tp-size": 1,
    "--moe-a2a-backend": "deepep",
    "--cpu-offload-gb": 1,
    "--offload-group-size": 2,
    "--weight-cache-mode": "host",
    "--torchao-config": "int8wo",
    "--attn-dp-size": 2,
    "--startup-weight-load-mode": "other",
}
"""What sets a refused flag; the others are switches."""
BESIDE = {
    "--enable-strict-thinking": {"grammar_backend": "llguidance"},
    "--lora-backend": {"enable_lora": True},
}
"""Where a flag is refused beside another only."""

COMMAND_LINES: dict[str, str] = {
    "--speculative-algorithm": "--speculative-algorithm NGRAM",
    "--disaggregation-mode": "--disaggregation-mode decode",
    "--pp-size": "--pp-size 2",
    "--attn-cp-size": "--attn-cp-size 2 --tp-size 2",
    "--dcp-size": "--dcp-size 2",
    "--enable-dp-attention": "--enable-dp-attention --tp-size 2 --dp-size 2",
    "--cpu-offload-gb": "--cpu-offload-gb 1",
    "--enable-hierarchical-cache": "--enable-hierarchical-cache",
    "--enable-lmcache": "--enable-lmcache",
    "--enable-single-batch-overlap": "--enable-single-batch-overlap",
    "--enable-torch-compile": "--enable-torch-compile",
    "--quantization-param-path": "--quantization-param-path scales.json --kv-cache-dtype fp8_e4m3",
    "--model-impl": "--model-impl transformers",
    "--load-format": "--load-format gguf",
}
"""Command lines that SGLang itself has nothing against, by what the refusal names."""
LORA = "--enable-lora --max-lora-rank 8 --lora-target-modules q_proj"
if IS_OLDEST:
    COMMAND_LINES["--enable-lora"] = LORA
else:
    # SGLang replaces one by the other
    COMMAND_LINES["--attn-dp-size"] = COMMAND_LINES.pop("--enable-dp-attention")
    COMMAND_LINES["--hicache-storage-backend"] = "--enable-hierarchical-cache --hicache-storage-backend sim"
    del COMMAND_LINES["--enable-hierarchical-cache"]  # served there
    # what is refused of them SGLang itself refuses on a CPU
    COMMAND_LINES.pop("--speculative-algorithm")

USUAL = [
    refusal
    for refusal in REFUSALS
    if refusal.message is None and installed_version() in refusal.versions and re.match("--|[A-Z]", refusal.flag)
]
"""The others depend on values or on the model, and have tests of their own."""

WRONG_SPEED: dict[str, tuple[Any, str]] = {
    "absent": (None, "speed=None is not an object"),
    "no object": (6, "speed=6 is not an object"),
    "no cutoff": ({"tail_tokens": 3}, "speed.prefill_layers is missing"),
    "a cutoff of zero": ({"prefill_layers": 0}, "prefill_layers=0 is not between 1 and 8"),
    "a cutoff above all layers": ({"prefill_layers": 9}, "prefill_layers=9 is not between 1 and 8"),
    "a share for a cutoff": ({"prefill_layers": 0.75}, "prefill_layers=0.75 is not a whole number"),
    "a text for a cutoff": ({"prefill_layers": "6"}, "prefill_layers='6' is not a whole number"),
    "negative anchors": ({"prefill_layers": 6, "anchor_tokens": -1}, "anchor_tokens=-1 is negative"),
    "no tail": ({"prefill_layers": 6, "tail_tokens": 0}, "tail_tokens=0 is below 1"),
    "an unknown key": ({"prefill_layers": 6, "tail": 3}, "speed.tail is not known"),
}

OVERRIDES: tuple[dict[str, Any], ...] = (
    {"architectures": ["LlamaForCausalLM"]},
    {"model_type": "llama"},
    {"speed": {"prefill_layers": 7}},
)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """SGLang's arguments write environment variables."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("plain"), num_layers=1)


def check(model: Path, command_line: str = "") -> ServerArgs:
    """What `launch_server` does before it starts a process."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    args = ServerArgs.from_cli_args(parser.parse_args(["--model-path", str(model), *command_line.split()]))
    resolve(args)
    return args


def with_flag(args: ServerArgs, flag: str) -> Any:
    """The same arguments with one more flag."""
    name = flag.split()[0]
    if name.startswith("--"):
        own = {name.removeprefix("--").replace("-", "_"): VALUES.get(name, True)}
        return resolved_with(args, **own, **BESIDE.get(name, {}))
    os.environ[name] = "1"
    return args


def test_a_speed_model_with_ordinary_settings_is_not_refused(tiny_speed: Path) -> None:
    check(tiny_speed, "--enable-metrics --chunked-prefill-size 64 --schedule-policy lpm --tp-size 2")
    check(tiny_speed, "--tp-size 2 --nnodes 2 --node-rank 1 --dist-init-addr 127.0.0.1:20000")
    check(tiny_speed, "--dp-size 2 --disable-radix-cache --kv-cache-dtype bf16")
    check(tiny_speed, "--kv-cache-dtype fp8_e4m3")
    check(tiny_speed, "--kv-cache-dtype fp8_e5m2 --page-size 16")


@pytest.mark.skipif(IS_OLDEST, reason="refused there")
def test_a_hierarchical_cache_and_files_behind_it_are_not_refused(tiny_speed: Path) -> None:
    check(tiny_speed, "--enable-hierarchical-cache --hicache-ratio 4 --hicache-storage-backend file")
    args = check(tiny_speed, "--enable-hierarchical-cache --hicache-ratio 4")
    refuse_unsupported(resolved_with(args, enable_lora=True))
    with pytest.raises(ConfigError, match="--hicache-storage-backend is not supported with --enable-lora"):
        refuse_unsupported(resolved_with(args, enable_lora=True, hicache_storage_backend="file"))
    with pytest.raises(ConfigError, match="--enable-session-radix-cache is not supported with --enable-hierarchical"):
        refuse_unsupported(resolved_with(args, enable_session_radix_cache=True))
    for flag in ("--hicache-mem-layout page_head", "--hicache-io-backend kernel_ascend"):
        with pytest.raises(ConfigError, match=f"{flag} needs an accelerator"):
            check(tiny_speed, f"--enable-hierarchical-cache {flag}")


@pytest.mark.skipif(IS_OLDEST, reason="refused there, see test_every_refusal_is_set_by_its_own_flag_alone")
def test_what_only_the_newest_sglang_serves_is_not_refused_there(tiny_speed: Path) -> None:
    check(tiny_speed, "--enable-mixed-chunk --enable-streaming-session --return-hidden-states-mode last")
    check(tiny_speed, "--enable-session-radix-cache --enable-return-hidden-states")
    check(tiny_speed, "--is-embedding")


@pytest.mark.skipif(IS_OLDEST, reason="refused of every model there")
def test_an_embedding_that_is_not_of_the_last_token_is_refused_by_the_models_type(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path, **MODELS["qwen3_moe"], speed={"prefill_layers": 6})
    check(model)
    with pytest.raises(ConfigError, match=r"--is-embedding is not supported for qwen3_moe with .* one of llama"):
        check(model, "--is-embedding")


@pytest.mark.parametrize("flag", COMMAND_LINES)
def test_a_refused_command_line_names_its_flag(tiny_speed: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match=f"sglang_speed: {flag}.* is not supported with a SPEED model"):
        check(tiny_speed, COMMAND_LINES[flag])


@pytest.mark.skipif(IS_OLDEST, reason="refused for every model there")
def test_adapters_are_refused_for_models_that_they_do_not_fit(tiny_speed: Path, tmp_path: Path) -> None:
    assert HOST.resolved(check(tiny_speed, LORA)).lora_backend == "torch_native", "what runs without an accelerator"
    with pytest.raises(ConfigError, match="--lora-backend triton needs an accelerator"):
        check(tiny_speed, f"{LORA} --lora-backend triton")
    for model, reason in (("deepseek_v3", "latent attention"), ("smollm3", "takes from transformers")):
        path = make_tiny_model(tmp_path / model, **MODELS[model], speed={"prefill_layers": 6})
        for asked in (LORA, "--lora-paths adapter"):
            with pytest.raises(
                ConfigError, match=f"--enable-lora with .*{reason}.* merge the adapter into the weights"
            ):
                check(path, asked)
        check(path)


@pytest.mark.skipif(IS_OLDEST, reason="refused for every model there")
def test_adapters_on_a_gpu_have_the_backend_that_is_proven_there(tiny_speed: Path) -> None:
    args = on_a_gpu(check(tiny_speed))
    for backend in ("csgmv", "triton", "torch_native"):
        asked = resolved_with(args, enable_lora=True, lora_backend=backend)
        with nullcontext() if backend == "csgmv" else pytest.raises(ConfigError, match="--lora-backend"):
            refuse_unsupported(asked)
    drafting = resolved_with(on_a_gpu(check(tiny_speed), decode="disabled"), **NGRAM)
    with pytest.raises(ConfigError, match="--enable-lora with NGRAM on a GPU"):
        refuse_unsupported(resolved_with(drafting, enable_lora=True, lora_backend="csgmv"))


@pytest.mark.parametrize("phase", ["", "prefill-", "decode-"])
def test_an_attention_backend_that_is_not_proven_is_refused_by_name(tiny_speed: Path, phase: str) -> None:
    with pytest.raises(ConfigError, match=f"--{phase}attention-backend triton"):
        check(tiny_speed, f"--{phase}attention-backend triton")


def on_a_gpu(args: ServerArgs, backend: str = "flashinfer", decode: str = "full", prefill: str = "disabled") -> Any:
    """The same arguments as SGLang would have resolved them on CUDA."""
    graphs = CudaGraphConfig(decode=PhaseConfig(backend=decode), prefill=PhaseConfig(backend=prefill))
    return resolved_with(args, device="cuda", attention_backend=backend, cuda_graph_config=graphs)


@pytest.mark.parametrize("backend", ["flashinfer", "triton", "fa3"])
@pytest.mark.parametrize("decode", ["full", "disabled"])
def test_tested_backends_and_decode_graphs_are_allowed_on_a_gpu(tiny_speed: Path, backend: str, decode: str) -> None:
    refuse_unsupported(on_a_gpu(check(tiny_speed), backend, decode))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backend": "fa4"},
            "--attention-backend fa4 is not tested with depth bands; choose one of flashinfer, triton",
        ),
        (
            {"decode": "breakable"},
            "--cuda-graph-backend-decode breakable is not supported with depth bands; choose one",
        ),
        (
            {"prefill": "breakable"},
            "--cuda-graph-backend-prefill breakable is not supported .*; choose one of disabled",
        ),
    ],
    ids=str,
)
def test_what_a_gpu_would_run_untested_is_refused(tiny_speed: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        refuse_unsupported(on_a_gpu(check(tiny_speed), **settings))


@pytest.mark.parametrize("backend", ["flashinfer", "triton", "fa3"])
@pytest.mark.parametrize("kv_dtype", ["fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_fp8_cache_is_refused_where_a_backends_kernels_do_not_take_it(
    tiny_speed: Path, backend: str, kv_dtype: str, dtype: str
) -> None:
    args = on_a_gpu(check(tiny_speed, f"--kv-cache-dtype {kv_dtype} --dtype {dtype}"), backend)
    if backend != "fa3" or (kv_dtype, dtype) == ("fp8_e4m3", "bfloat16"):
        refuse_unsupported(args)
        return
    with pytest.raises(
        ConfigError, match=f"--kv-cache-dtype {kv_dtype} in a .*{dtype} model .* fa3, .* choose that, or"
    ):
        refuse_unsupported(args)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_an_fp8_cache_is_refused_for_a_backend_of_one_phase(tiny_speed: Path, phase: str) -> None:
    args = on_a_gpu(check(tiny_speed, "--kv-cache-dtype fp8_e5m2"), "triton")
    args = resolved_with(args, **{f"{phase}_attention_backend": "fa3"})
    with pytest.raises(
        ConfigError, match=r"--kv-cache-dtype fp8_e5m2 .* is not supported with --attention-backend fa3"
    ):
        refuse_unsupported(args)


@pytest.mark.parametrize(
    ("speed", "named"),
    [
        ({"policy": "pop"}, "policy pop "),
        ({"policy": "fastkv"}, "policy fastkv "),
        ({"deep_message_tokens": 6, "message_delimiters": [[5]]}, "policy speed and --deep-message-tokens "),
    ],
    ids=str,
)
def test_an_fp8_cache_is_refused_where_more_than_computed_kv_lies_in_it(
    tmp_path: Path, speed: dict[str, Any], named: str
) -> None:
    model = make_tiny_model(tmp_path, speed={"prefill_layers": 6, **speed})
    check(model)
    with pytest.raises(ConfigError, match=f"--kv-cache-dtype fp8_e5m2 is not supported with {named}"):
        check(model, "--kv-cache-dtype fp8_e5m2")


FASTKV, MESSAGES = {"policy": "fastkv"}, {"deep_message_tokens": 6, "message_delimiters": [[5]]}
WITH_STATES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a chunk shorter than the window": (
        FASTKV | {"select_window": 40},
        {"chunked_prefill_size": 39},
        "--chunked-prefill-size 39 .* take at least 40, or",
    ),
    "a chunk shorter than the tail": (
        MESSAGES | {"tail_tokens": 50},
        {"chunked_prefill_size": 49},
        "--chunked-prefill-size 49 .* take at least 50, or",
    ),
    "another dtype": (FASTKV, {"kv_cache_dtype": "bf16"}, "--kv-cache-dtype bfloat16 .* add --dtype bfloat16"),
    "pieces that depend on the batch": (
        MESSAGES,
        {"enable_deterministic_inference": True},
        "--enable-deterministic-inference is not supported with policy fastkv or short messages",
    ),
    "a residual in float32": (FASTKV, {"rl_on_policy_target": "fsdp"}, "--rl-on-policy-target is not supported with"),
    "shares of a state": (MESSAGES, {"tp_size": 3}, "--tp-size .* take a number of ranks that divides it"),
    "shares of a KV head": (
        FASTKV | {"kv_keep": 0.1},
        {"tp_size": 4},
        "above the number of KV heads, with --kv-keep, .* take fewer ranks",
    ),
}


@pytest.mark.parametrize("name", WITH_STATES)
def test_what_is_not_served_with_states_is_refused(tmp_path: Path, name: str) -> None:
    speed, setting, message = WITH_STATES[name]
    models = [
        make_tiny_model(tmp_path / kind, speed={"prefill_layers": 6, **more})
        for kind, more in (("with", speed), ("without", {}))
    ]
    with_states, without = (check(model, "--dtype float32 --chunked-prefill-size 64") for model in models)
    refuse_unsupported(with_states)
    with pytest.raises(ConfigError, match=message):
        refuse_unsupported(resolved_with(with_states, **setting))
    refuse_unsupported(resolved_with(without, **setting))


NGRAM, STANDALONE = {"speculative_algorithm": "NGRAM"}, {"speculative_algorithm": "STANDALONE"}
WITH_DRAFTS: dict[str, tuple[dict[str, Any], str]] = {
    "a draft model on a GPU": (STANDALONE | {"speculative_eagle_topk": 1}, "STANDALONE .* on a GPU .*; take .*NGRAM"),
    "a head on states": (
        {"speculative_algorithm": "EAGLE3"},
        "EAGLE3 is not supported .* prompt tokens do not pass; .* take --speculative-algorithm NGRAM or STANDALONE",
    ),
    "a kernel without masks": (
        NGRAM | {"attention_backend": "fa3"},
        "NGRAM .* another attention backend .* flashinfer",
    ),
    "a draft model beside a hierarchical cache": (
        STANDALONE | {"enable_hierarchical_cache": True},
        "--enable-hierarchical-cache is not supported with STANDALONE .*; leave one of them out",
    ),
    "an fp8 cache": (NGRAM | {"kv_cache_dtype": "fp8_e4m3"}, "NGRAM .* with an fp8 KV cache .*; leave"),
}


@pytest.mark.skipif(IS_OLDEST, reason="drafts are refused there")
@pytest.mark.parametrize("name", WITH_DRAFTS)
def test_drafts_that_are_not_proven_are_refused(tiny_speed: Path, plain: Path, name: str) -> None:
    setting, message = WITH_DRAFTS[name]
    refuse_unsupported(resolved_with(on_a_gpu(check(tiny_speed)), **NGRAM))
    with pytest.raises(ConfigError, match=message):
        refuse_unsupported(resolved_with(on_a_gpu(check(tiny_speed)), **setting))
    refuse_unsupported(resolved_with(on_a_gpu(check(plain)), **setting))


@pytest.mark.skipif(IS_OLDEST, reason="drafts are refused there")
def test_drafts_of_branches_and_windows_are_refused(tiny_speed: Path, tmp_path: Path) -> None:
    branches = STANDALONE | {"speculative_eagle_topk": 2}
    with pytest.raises(ConfigError, match="--speculative-eagle-topk above 1"):
        refuse_unsupported(resolved_with(check(tiny_speed), **branches))
    windowed = check(make_tiny_model(tmp_path, **MODELS["gemma2"], speed={"prefill_layers": 6}))
    refuse_unsupported(resolved_with(windowed, **NGRAM))
    with pytest.raises(ConfigError, match=r"NGRAM .* with sliding windows on a GPU"):
        refuse_unsupported(resolved_with(on_a_gpu(windowed), **NGRAM))


@pytest.mark.skipif(IS_OLDEST, reason="both are refused there")
@pytest.mark.parametrize("asked", ["return_hidden_states_mode", "enable_return_hidden_states"])
def test_hidden_states_beside_drafts_are_refused(tiny_speed: Path, plain: Path, asked: str) -> None:
    setting = NGRAM | {asked: "last"}
    with pytest.raises(ConfigError, match="--return-hidden-states-mode is not supported with --speculative-algorithm"):
        refuse_unsupported(resolved_with(check(tiny_speed), **setting))
    refuse_unsupported(resolved_with(check(plain), **setting))


@pytest.mark.parametrize("refusal", USUAL, ids=lambda refusal: str(refusal.flag))
def test_every_refusal_is_set_by_its_own_flag_alone(tiny_speed: Path, plain: Path, refusal: Refusal) -> None:
    """Also flags that SGLang itself refuses here or for this architecture. Other models are left alone."""
    with pytest.raises(ConfigError, match=f"sglang_speed: {re.escape(refusal.flag)} is not supported") as error:
        refuse_unsupported(with_flag(check(tiny_speed), refusal.flag))
    assert refusal.reason in str(error.value)
    refuse_unsupported(with_flag(check(plain), refusal.flag))


@pytest.mark.skipif(IS_OLDEST, reason="these models are refused by their type there")
def test_what_is_refused_of_a_model_is_refused_of_it_alone(tmp_path: Path) -> None:
    latent, windowed = (
        make_tiny_model(tmp_path / model, **MODELS[model], speed={"prefill_layers": 6})
        for model in ("deepseek_v3", "gpt_oss")
    )
    refuse_unsupported(check(latent))
    with pytest.raises(ConfigError, match=r"latent attention \(DeepSeek\) on a GPU is not supported"):
        refuse_unsupported(on_a_gpu(check(latent)))
    args = check(windowed)
    refuse_unsupported(args)
    assert HOST.resolved(args).disable_hybrid_swa_memory
    HOST.resolved(args).get_model_config().is_hybrid_swa = True
    with pytest.raises(ConfigError, match="a pool of its own for layers with a sliding window is not supported"):
        refuse_unsupported(args)


@pytest.mark.parametrize("changed", OVERRIDES, ids=str)
def test_a_checkpoint_is_not_served_as_another_model_or_at_another_depth(
    tiny_speed: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"sglang_speed: .*--json-model-override-args"):
        check(tiny_speed, "--json-model-override-args " + json.dumps(changed, separators=(",", ":")))


@pytest.mark.parametrize("name", WRONG_SPEED)
def test_a_wrong_speed_object_is_refused_by_its_key(tiny_speed: Path, tmp_path: Path, name: str) -> None:
    speed, message = WRONG_SPEED[name]
    with pytest.raises(ConfigError, match="^" + message.replace(".", r"\.")):
        check(copy_with(tiny_speed, tmp_path / "wrong", speed=speed))


@pytest.mark.skipif(IS_OLDEST, reason="all are refused there")
def test_quantized_weights_are_refused_by_their_method(tiny_speed: Path, tmp_path: Path) -> None:
    quantized = {
        method: copy_with(tiny_speed, tmp_path / method, quantization_config={"quant_method": method} | more)
        for method, more in (("fp8", {"activation_scheme": "dynamic"}), ("quark", {}))
    }
    check(quantized["fp8"])
    with pytest.raises(ConfigError, match=r"is quantized by quark \(quantization_config in config.json\), which"):
        check(quantized["quark"])
    args = check(quantized["fp8"])
    refuse_unsupported(resolved_with(args, enable_lora=True))
    args = check(quantized["fp8"])
    HOST.resolved(args).get_model_config().quantization = "humming"
    with pytest.raises(ConfigError, match=r"--quantization humming is not supported .* by one of fp8, compressed"):
        refuse_unsupported(args)


@pytest.mark.skipif(not IS_OLDEST, reason="most are served there")
def test_quantized_weights_are_refused_by_the_oldest_sglang(tiny_speed: Path, tmp_path: Path) -> None:
    says = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    with pytest.raises(ConfigError, match=r"--quantization \(or quantization_config in config.json\) is not supported"):
        check(copy_with(tiny_speed, tmp_path / "fp8", quantization_config=says))


@pytest.mark.skipif(IS_OLDEST, reason="all are refused there")
def test_weights_that_would_be_quantized_at_start_up_are_refused(tiny_speed: Path) -> None:
    with pytest.raises(ConfigError, match=r"--quantization fp8 is not supported .* whose checkpoint is not quantized"):
        check(tiny_speed, "--quantization fp8")


def copy_with(checkpoint: Path, directory: Path, **changes: Any) -> Path:
    """A checkpoint with other values in its config.json."""
    shutil.copytree(checkpoint, directory)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(config), encoding="utf-8")
    return directory
