"""How KV memory is split between the bands.

The shallow band's pool holds every token, the pools of deep bands only deep tokens, so a small share of the
bytes serves them. The share is a promise: 94% of the ideal `L / Lc` gain stays with prompt tokens. Where tokens are
selected it is 96% of `L / (Lc + s)`; a state takes as much as `s` layers.

Where KV is filled in, the deep band's pool holds every token once more, which is charged to prompt tokens, and its
table is as wide as SGLang's own, which is taken from the budget first. The share is that of what is computed there.

What grows with a deep band is paid from that share: its pool, its request table, and what its attention
backend keeps for decode graphs, which has the shape of the table. For `B` deep bands of `D` tokens each they add up to

    D * (L - Lc) * c  +  B * min(D, context) * (4 * rows + 8 * graph_rows)

Llama-3.1-8B at a context of 128K on a GPU with 108 GB for KV: SGLang takes 4030 requests, so the
table is 2.05 GB of the 6.5 GB; 127 thousand deep tokens are left. With --max-running-requests 512 it is 0.3 GB and 181
thousand. The width is not capped, because one request may need it: it may generate, or score, its whole context.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.policies import DepthPolicy

DEEP_PERCENT, DEEP_PERCENT_WHERE_SELECTED, DEEP_PERCENT_WHERE_THINNED = 6, 4, 10
DEEP_TOKENS_VARIABLE = "SGLANG_SPEED_DEEP_TOKENS"
TABLE_BYTES = 4
"""An entry of the request table, int32."""
GRAPH_BYTES = 8
"""The same of the attention backend for decode graphs: Triton 8, FlashInfer 4 and 1 for a mask, FA3 4."""


@dataclass(frozen=True)
class DeepTables:
    """What stands beside a deep band's pool on one device, a column per deep token of one request.

    num_rows: rows of the request table. num_graph_rows: requests in the largest decode graph, 0 where there is none.
    num_drafts: of a request in a decode graph, which has a mask of each.
    max_width: the longest that a request can be; fewer columns are made where it can see fewer tokens, see
        `table_width`.
    """

    num_rows: int = 0
    num_graph_rows: int = 0
    max_width: int = 0
    num_drafts: int = 0

    @property
    def column_bytes(self) -> int:
        return self.num_rows * TABLE_BYTES + self.num_graph_rows * (GRAPH_BYTES + self.num_drafts)


@dataclass(frozen=True)
class KVSplit:
    """Token capacities of the shallow band and of each deep band. Bytes: `prompt_tokens * c` for each
    layer that stores them, and `deep_bytes`."""

    prompt_tokens: int
    deep_tokens: int


def table_width(config: SpeedConfig, deep_tokens: int, context_len: int) -> int:
    """Columns of a deep band's table: the most that one request sees there."""
    return context_len if config.fills_deep_layers else min(context_len, deep_tokens)


def deep_bytes(config: SpeedConfig, deep_tokens: int, bytes_per_layer: int, tables: DeepTables) -> int:
    """Bytes of all deep bands with `deep_tokens` each: their pools and the tables beside them."""
    columns = _num_tables(config) * table_width(config, deep_tokens, tables.max_width)
    return deep_tokens * num_layers_beside(config) * bytes_per_layer + columns * tables.column_bytes


def _num_tables(config: SpeedConfig) -> int:
    return len(config.cutoffs) + config.is_thinned


def num_layers_beside(config: SpeedConfig) -> int:
    """Layers of all pools but the main one: what is thinned has all layers once more."""
    return config.num_deep_layers + (config.num_layers if config.is_thinned else 0)


def deep_percent(config: SpeedConfig) -> int:
    """Of 100 parts of the budget those that the deep bands have."""
    if config.is_thinned:
        return DEEP_PERCENT_WHERE_THINNED
    return DEEP_PERCENT if config.selection is None else DEEP_PERCENT_WHERE_SELECTED


def deep_tokens_beside(
    config: SpeedConfig,
    prompt_tokens: int,
    bytes_per_layer: int,
    override: int | None,
    tables: DeepTables,
    state_layers: int = 0,
) -> int:
    """Tokens of each deep band beside a shallow pool of `prompt_tokens`.

    Of 100 parts of the bytes the deep bands have `deep_percent`, prompt tokens the others; that is for as many tokens
    as `deep_bytes` allows: pools narrower than the tables can be, or ones that leave them at their full width.
    """
    if config.is_stock:
        return 0
    if override is not None:
        return override
    percent = deep_percent(config)
    share = prompt_tokens * (config.stored_layers + state_layers) * bytes_per_layer * percent // (100 - percent)
    cell = num_layers_beside(config) * bytes_per_layer
    if config.fills_deep_layers:
        return share // cell
    column = _num_tables(config) * tables.column_bytes
    return max(share // (cell + column), (share - tables.max_width * column) // cell)


def split_kv_bytes(
    config: SpeedConfig,
    budget_bytes: int,
    bytes_per_layer: int,
    page_size: int,
    override: int | None = None,
    tables: DeepTables = DeepTables(),
    state_layers: int = 0,
) -> KVSplit:
    """Split a KV budget between the bands.

    budget_bytes: bytes for all pools and the deep bands' tables.
    bytes_per_layer: KV bytes of one token in one layer on this device, `c`.
    page_size: the shallow pool is a whole number of pages.
    state_layers: as many layers as the state of a token takes.
    """
    cell = (config.stored_layers + state_layers) * bytes_per_layer
    if config.is_stock:
        kept = 0
    elif override is not None:
        kept = deep_bytes(config, override, bytes_per_layer, tables)
    else:
        fixed = deep_bytes(config, 0, bytes_per_layer, tables)  # none where tables are no wider than the deep pool
        kept = fixed - (fixed - budget_bytes) * deep_percent(config) // 100
    prompt_tokens = (budget_bytes - kept) // cell // page_size * page_size
    if prompt_tokens <= 0:
        set_by_hand = "" if override is None else f"{DEEP_TOKENS_VARIABLE}={override}: "
        raise ConfigError(
            f"{set_by_hand}deep tokens and tables take {kept} of the {budget_bytes} bytes for KV, which leaves no "
            f"prompt tokens; lower {DEEP_TOKENS_VARIABLE} or --max-running-requests, or raise --mem-fraction-static"
        )
    deep_tokens = deep_tokens_beside(config, prompt_tokens, bytes_per_layer, override, tables, state_layers)
    return KVSplit(prompt_tokens, deep_tokens)


def cap_deep_tokens(
    policy: DepthPolicy, deep_tokens: int, max_requests: int, context_len: int, num_ahead: int = 0
) -> int:
    """Never more than the running requests can fill, never less than one request needs.

    num_ahead: places for drafts behind a request's tokens. Raises ConfigError where not even one prompt's deep tokens
    and one generated token fit.
    """
    deep_tokens = min(deep_tokens, max_requests * context_len)
    needed = policy.min_deep_tokens + 1 + num_ahead
    if deep_tokens < needed:
        drafts = f" and {num_ahead} for drafts" if num_ahead else ""
        raise ConfigError(
            f"a deep band has room for {deep_tokens} tokens, but one request needs {needed} (those of its prompt and 1 "
            f"generated{drafts}); set {DEEP_TOKENS_VARIABLE} to at least that, lower --max-running-requests, or give "
            "the KV cache more memory (--mem-fraction-static, --max-total-tokens)"
        )
    return deep_tokens
