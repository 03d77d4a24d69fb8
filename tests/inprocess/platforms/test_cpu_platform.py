"""Claims about when the CPU platform serves and what it makes of the server arguments."""

from __future__ import annotations

import os
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.server_args import ServerArgs

from sglang_speed.errors import ConfigError
from sglang_speed.platforms.cpu import CpuPlatform, activate, share_cores
from tests.host import IS_OLDEST


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty environment, and a machine without an accelerator."""
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    return variables


def defaults_for(**chosen: Any) -> SimpleNamespace:
    """SGLang's defaults, the ones for a CPU among them, and what was chosen."""
    defaults = {name: each.default for name, each in signature(ServerArgs).parameters.items()}
    server_args = SimpleNamespace(**{**defaults, "device": "cpu", "attention_backend": "intel_amx", **chosen})
    CpuPlatform().apply_server_args_defaults(server_args)
    return server_args


def test_it_serves_where_there_is_no_accelerator(environment: dict[str, str]) -> None:
    assert activate() == "sglang_speed.platforms.cpu.CpuPlatform"


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_it_stands_down_for_an_accelerator(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: True)
    assert activate() is None
    assert "OMP_WAIT_POLICY" not in environment


def test_it_stands_down_for_sglangs_own_cpu_engine(environment: dict[str, str]) -> None:
    environment["SGLANG_USE_CPU_ENGINE"] = "1"
    assert activate() is None


def test_threads_of_worker_processes_wait_passively_unless_the_user_says_otherwise(environment: dict[str, str]) -> None:
    activate()
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    environment["OMP_WAIT_POLICY"] = "ACTIVE"
    activate()
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE"


def test_sglang_takes_it_for_an_out_of_tree_platform() -> None:
    platform = CpuPlatform()
    assert platform.is_out_of_tree()
    assert not platform.is_cpu()
    assert platform.get_dispatch_key_name() == "native"
    assert platform.get_device(None) == "cpu"
    assert not platform.is_pin_memory_available()


def test_what_is_left_open_is_filled_in(environment: dict[str, str]) -> None:
    server_args = defaults_for()
    assert server_args.attention_backend == "torch_native"
    assert server_args.dtype == "bfloat16"
    assert server_args.sleep_on_idle
    assert server_args.max_running_requests == 16
    assert server_args.chunked_prefill_size == 2048
    assert 0 < server_args.mem_fraction_static < 1
    assert "OMP_NUM_THREADS" not in environment


@pytest.mark.parametrize(
    "chosen",
    [
        {"dtype": "float32"},
        {"dtype": "float16"},
        {"max_running_requests": 3},
        {"chunked_prefill_size": -1},
        {"mem_fraction_static": 0.3},
        {"attention_backend": "torch_native"},
    ],
)
def test_what_the_user_chose_is_kept(chosen: dict[str, Any]) -> None:
    assert vars(defaults_for(**chosen)).items() >= chosen.items()


@pytest.mark.parametrize("flag", ["attention_backend", "prefill_attention_backend", "decode_attention_backend"])
def test_an_attention_backend_that_needs_an_accelerator_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} triton needs an accelerator"):
        defaults_for(**{flag: "triton"})


@pytest.mark.parametrize(
    "chosen", [{"hicache_mem_layout": "page_head"}, {"hicache_io_backend": "kernel_ascend"}], ids=str
)
def test_host_pools_that_are_not_copied_here_are_refused(chosen: dict[str, str]) -> None:
    defaults_for(**chosen)
    with pytest.raises(ConfigError, match=f"{next(iter(chosen.values()))} needs an accelerator.*choose one of"):
        defaults_for(**chosen, enable_hierarchical_cache=True)


@pytest.mark.parametrize(
    "chosen", [{"enable_deterministic_inference": True}, {"rl_on_policy_target": "fsdp"}, {"enable_memory_saver": True}]
)
def test_a_setting_that_needs_an_accelerator_is_refused(chosen: dict[str, Any]) -> None:
    flag = next(iter(chosen)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{flag} needs an accelerator, and none was found: .*; leave the flag out"):
        defaults_for(**chosen)


@pytest.mark.parametrize(
    "ranks", [{"tp_size": 2}, pytest.param({"dp_size": 2}, marks=pytest.mark.skipif(IS_OLDEST, reason="all have all"))]
)
def test_ranks_share_the_cores(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, ranks: dict[str, int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {8, 9, 2, 3, 4})
    defaults_for(**ranks)
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"] == "2,3|4,8"
    assert environment["OMP_NUM_THREADS"] == "2"


def test_ranks_of_several_machines_share_the_cores_of_their_own(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    defaults_for(tp_size=4, nnodes=2)
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"] == "0,1|2,3"


def test_more_ranks_than_cores_get_a_core_each_in_turn(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    share_cores(3)
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"] == "0|1|0"


def test_the_users_own_binding_is_kept(environment: dict[str, str]) -> None:
    chosen = {"SGLANG_CPU_OMP_THREADS_BIND": "0-3|4-7", "OMP_NUM_THREADS": "4"}
    environment.update(chosen)
    share_cores(2)
    assert environment.items() >= chosen.items()
