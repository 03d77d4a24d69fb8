"""Servers that are too small for what a storm asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.server.conftest import STRICT_MEMORY_CHECKS
from tests.server.servers import RunningServer, running_server
from tests.server.storm.kinds import GUEST, Sizes
from tests.tiny_adapters import ALL_LINEAR, ENDS, TinyAdapter
from tests.tiny_models import make_tiny_model

SHAPE = {"num_layers": 8, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
CHECKS = {**STRICT_MEMORY_CHECKS, "SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
FORGETFUL = {"SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS": "1"}
"""A low `--schedule-conservativeness` lets requests start as if none would generate much, so that they run out of room
and are retracted. From that SGLang learns to expect more; one step to unlearn it again keeps the pressure up."""
FILES = (
    *("--enable-hierarchical-cache", "--hicache-ratio", "2", "--hicache-storage-backend", "file"),
    *("--hicache-storage-prefetch-policy", "wait_complete"),
    *("--hicache-storage-backend-extra-config", '{"prefetch_threshold": 32}'),
)
STORE_VARIABLE = "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR"
FASTKV = {"prefill_layers": 4, "policy": "fastkv", "select_ratio": 0.2}
SMALL_TABLE = ("--speculative-ngram-capacity", "16384")
"""Full before memory is compared: SGLang's table of drafts grows until then, by default to ten million entries."""
DRAFTS = ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", "4", *SMALL_TABLE)
FLAGS = ("--dtype", "float32", "--enable-metrics", "--enable-cache-report", "--max-running-requests", "24")


@dataclass(frozen=True)
class Setup:
    """One server.

    total_tokens, deep_tokens: sizes of the two pools. flags: of sglang.launch_server. adapters: that requests may name;
    one of them is loaded and unloaded meanwhile. num_ahead: places that a request keeps for drafts.
    """

    name: str
    flags: tuple[str, ...]
    total_tokens: int = 1280
    deep_tokens: int = 200
    bands: Mapping[str, Any] = field(
        default_factory=lambda: {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}
    )
    sizes: Sizes = field(default_factory=Sizes)
    adapters: tuple[TinyAdapter, ...] = ()
    num_ahead: int = 0

    def checkpoint(self, directory: Path) -> Path:
        """With the adapters in it."""
        path = make_tiny_model(directory, speed=self.bands, **SHAPE)
        for adapter in self.adapters:
            adapter.write(path / adapter.name, SpeedLlamaForCausalLM.from_pretrained(path))
        return path

    def lora_flags(self, checkpoint: Path) -> list[str]:
        if not self.adapters:
            return []
        paths = [f"{adapter.name}={checkpoint / adapter.name}" for adapter in self.adapters if adapter.name != GUEST]
        return ["--lora-paths", *paths, "--max-lora-rank", "8", "--max-loras-per-batch", str(len(self.adapters))]

    @contextmanager
    def served(self, checkpoint: Path) -> Iterator[RunningServer]:
        pools = ("--max-total-tokens", str(self.total_tokens), "--schedule-conservativeness", "0.2")
        env = {**CHECKS, **FORGETFUL, DEEP_TOKENS_VARIABLE: str(self.deep_tokens)}
        env[STORE_VARIABLE] = str(checkpoint.with_name(f"{checkpoint.name}-stored"))
        flags = (*FLAGS, *pools, *self.flags, *self.lora_flags(checkpoint))
        with running_server(checkpoint, *flags, env=env) as server:
            yield server


SETUPS = {
    setup.name: setup
    for setup in (
        Setup("priorities", ("--enable-priority-scheduling", "--chunked-prefill-size", "64")),
        Setup(
            "pages",
            ("--page-size", "16", "--chunked-prefill-size", "96", "--disable-overlap-schedule"),
            total_tokens=768,
            deep_tokens=400,
        ),
        Setup(
            "longest_prefix_first",
            ("--page-size", "16", "--chunked-prefill-size", "64", "--schedule-policy", "lpm"),
            bands={"prefill_layers": 4, "anchor_tokens": 4, "tail_tokens": 16},
            deep_tokens=320,
        ),
        Setup(
            "preemptions",
            ("--enable-priority-scheduling", "--chunked-prefill-size", "64", "--max-running-requests", "4"),
            total_tokens=640,
            deep_tokens=400,
        ),
        Setup(
            "pop",
            ("--enable-priority-scheduling", "--chunked-prefill-size", "64"),
            bands={"prefill_layers": 6, "policy": "pop", "anchor_tokens": 0, "tail_tokens": 1},
        ),
        Setup(
            "fastkv",
            ("--page-size", "16", "--chunked-prefill-size", "64"),
            bands={**FASTKV, "anchor_tokens": 1, "tail_tokens": 3},
            total_tokens=768,
            deep_tokens=220,
        ),
        Setup(
            "thinned",
            ("--enable-priority-scheduling", "--chunked-prefill-size", "64", "--max-running-requests", "6"),
            bands={**FASTKV, "kv_keep": 0.1, "anchor_tokens": 1, "tail_tokens": 3},
            deep_tokens=320,
        ),
        Setup(
            "drafts",
            (*DRAFTS, "--chunked-prefill-size", "64", "--max-running-requests", "8"),
            deep_tokens=320,
            num_ahead=16,
        ),
        Setup(
            "hierarchical_cache",
            ("--chunked-prefill-size", "64", "--enable-hierarchical-cache", "--hicache-ratio", "3"),
            bands={"prefill_layers": 6, "policy": "pop", "anchor_tokens": 1, "tail_tokens": 2},
            total_tokens=768,
        ),
        Setup(
            "adapters",
            ("--enable-priority-scheduling", "--chunked-prefill-size", "64"),
            adapters=(
                TinyAdapter("first", (*ALL_LINEAR, *ENDS)),
                TinyAdapter("second", ("q_proj", "v_proj", "down_proj"), rank=2, seed=1),
                TinyAdapter(GUEST, rank=3, seed=2),
            ),
        ),
        Setup(
            "stored_prefixes",
            ("--page-size", "16", "--chunked-prefill-size", "64", *FILES),
            bands={"prefill_layers": 6, "anchor_tokens": 4, "tail_tokens": 3},
            total_tokens=768,
            deep_tokens=220,
        ),
    )
}
