"""The architectures that have depth bands, one row each, and those that cannot have them, with the reason.

Plain Python. Must not import torch, transformers or sglang. The layers are SGLang's and transformers' own: a row names
them and says which of their settings are not served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speed.config import SPEED_ARCHITECTURE, SPEED_MODEL_TYPE, decoder_config

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope", "mrope")
"""Kinds of position scaling that SGLang and transformers compute alike. `dynamic` is none: SGLang scales the shortest
prompts too."""

Config = Mapping[str, Any]
Rule = Callable[[Config], str | None]
"""What in a decoder's config.json is not served, as the words of an error; None if all is."""


def _ropes(config: Config) -> list[Any]:
    """What config.json says of positions: one object, or one for each kind of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    is_by_kind = isinstance(rope, Mapping) and bool(rope) and all(isinstance(each, Mapping) for each in rope.values())
    return list(rope.values()) if is_by_kind else [rope]


def _kind(rope: Any) -> Any:
    return rope.get("rope_type") or rope.get("type") or "default" if isinstance(rope, Mapping) else rope


def _known_rope(config: Config) -> str | None:
    for rope in _ropes(config):
        kind = _kind(rope)
        if not isinstance(rope, Mapping) or kind not in ROPE_TYPES:
            return f"rope type {kind!r} is not one of {', '.join(ROPE_TYPES)}: choose another model"
        if kind == "yarn" and rope.get("attention_factor") is not None:
            return "rope attention_factor: SGLang does not read it; leave it out if it follows from factor anyway"
        original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        if kind == "longrope" and original and config.get("max_position_embeddings", original) > original:
            return (
                f"rope type 'longrope' beyond {original} tokens: its factors change with the longest request of a "
                f"batch; set max_position_embeddings to {original}, or choose another model"
            )
    return None


def _plain_rope(config: Config) -> str | None:
    kinds = [kind for kind in map(_kind, _ropes(config)) if kind != "default"]
    return f"rope type {kinds[0]!r}: SGLang's layers of this architecture would leave it out" if kinds else None


def _only(key: str, served: Any, why: str) -> Rule:
    """A key that must have one value, which is transformers' own where the key is missing."""

    def rule(config: Config) -> str | None:
        value = config.get(key, served)
        return None if value == served else f"{key}={value!r}: {why}"

    return rule


def _no_window(config: Config, default: int | None = None) -> str | None:
    """SGLang's layers of some architectures see everything, whatever config.json says. default: transformers'."""
    window, longest = config.get("sliding_window", default), config.get("max_position_embeddings")
    if not window or config.get("use_sliding_window") is False or (longest is not None and window >= longest):
        return None
    return (
        f"sliding_window={window}: SGLang's layers of this architecture have no window and would see more; choose a "
        "version of the model without one"
    )


def _no_mistral_window(config: Config) -> str | None:
    return _no_window(config, default=4096)


def _no_window_in_use(config: Config) -> str | None:
    """Of the architectures that have a switch for it, which is off where it is not said."""
    return _no_window(config) if config.get("use_sliding_window") else None


_silu = _only("hidden_act", "silu", "SGLang's layers have 'silu' only")
_no_mlp_bias = _only("mlp_bias", False, "SGLang's layers have no biases there, and would leave them out")
_no_attention_bias = _only("attention_bias", False, "SGLang's layers have no biases there, and would leave them out")
_tied = _only("tie_word_embeddings", True, "SGLang takes the embedding for the head of this architecture")
_untied = _only("tie_word_embeddings", False, "SGLang wants a head of its own for this architecture")
_dense_attention = _only("index_topk", None, "sparse attention: its indices are made in some layers for others above")
_no_chunked_attention = _only(
    "dual_chunk_attention_config", None, "attention in two chunks is not proven in bands; leave it out"
)
_all_sparse = (
    _only("mlp_only_layers", [], "SGLang builds every layer with experts"),
    _only("decoder_sparse_step", 1, "SGLang builds every layer with experts"),
)


@dataclass(frozen=True)
class Architecture:
    """A decoder of SGLang and transformers.

    model_type, name: what its config.json says in `model_type` and `architectures`. With depth bands it says
        `speed_model_type` and `speed_name`, so that nothing else takes the checkpoint for one of full depth.
    examples: models that people serve, for docs/models.md. note: what is special about it there.
    rules: what is not served; the first that finds something refuses the checkpoint.
    is_like_llama: its layers have the parts and the matrices of Llama's, by the same names; `sglang-speed train` trains
        these, and their weights are checked one by one before they are served.
    needs_matrices: whether only the eager attention of transformers computes what its layers do.
    is_gated: whether the MLP has three matrices instead of two.
    branches: the parts of a layer in transformers whose outputs are added to the residual stream.
    residual_is_added: whether a layer of SGLang's gives hidden states that have the residual in them already.
    is_of_transformers: whether SGLang runs transformers' layers.
    """

    model_type: str
    name: str
    examples: str = ""
    rules: tuple[Rule, ...] = ()
    note: str = ""
    is_like_llama: bool = False
    branches: tuple[str, str] = ("self_attn", "mlp")
    needs_matrices: bool = False
    is_gated: bool = True
    residual_is_added: bool = False
    is_of_transformers: bool = False

    @property
    def speed_model_type(self) -> str:
        return SPEED_MODEL_TYPE + self.model_type

    @property
    def speed_name(self) -> str:
        return SPEED_ARCHITECTURE + self.name

    def unserved(self, config: Config) -> str | None:
        """What in a config.json is not served, as the words of an error; None if all is."""
        decoder = decoder_config(config)
        found: Iterator[str | None] = (rule(decoder) for rule in (_known_rope, *self.rules))
        return next(filter(None, found), None)


_GATED = (_silu, _no_window)
_QWEN = (_silu, _no_window_in_use, _no_chunked_attention)
_AFTER_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_AFTER_GLM_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")
_ONE_POOL = (
    "one KV pool: layers with a window keep every token, where stock SGLang keeps the window only (unless it is told "
    "`--disable-hybrid-swa-memory`), so long prompts can take more memory than there"
)
_NO_IMAGES = "text only: a request with an image gets 400"
_BY_TRANSFORMERS = "SGLang runs transformers' layers"
_DEEPSEEK = (
    _untied,
    _dense_attention,
    _only("rope_interleave", True, "SGLang rotates pairs that lie side by side"),
    _only("moe_layer_freq", 1, "transformers builds every layer with experts"),
)
_MINISTRAL = (
    _silu,
    _no_window,
    lambda config: (
        None
        if all(
            _kind(rope) == "yarn" and rope.get("original_max_position_embeddings") == 16384 for rope in _ropes(config)
        )
        else "rope_parameters other than yarn from 16384 tokens: SGLang scales queries from there, whatever it says"
    ),
)
_STABLELM = (
    _silu,
    _untied,
    _plain_rope,
    _only("use_parallel_residual", False, "SGLang's layers run attention and MLP one after the other"),
    _only("qk_layernorm", False, "SGLang's layers have no norms there"),
)
_EXAONE = (
    _silu,
    lambda config: (
        "sliding_window_pattern: SGLang reads a text like 'LLLG'"
        if isinstance(config.get("sliding_window_pattern"), int)
        else None
    ),
    lambda config: (
        None
        if all(rope.get("rope_theta", 1e6) == 1e6 for rope in (config, *_ropes(config)))
        else "rope_theta: SGLang takes 1000000, whatever it says"
    ),
)

ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture("qwen3", "Qwen3ForCausalLM", "Qwen3 0.6B to 32B", _QWEN, is_like_llama=True),
        Architecture("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen3-30B-A3B, 235B-A22B", (*_QWEN, *_all_sparse, _untied)),
        Architecture("llama", "LlamaForCausalLM", "Llama 3.1, 3.3; SmolLM2", (_silu, _no_mlp_bias), is_like_llama=True),
        Architecture(
            "mistral", "MistralForCausalLM", "Mistral 7B v0.3, Nemo", (_silu, _no_mistral_window), is_like_llama=True
        ),
        Architecture("ministral3", "Ministral3ForCausalLM", "text model of Ministral 3", _MINISTRAL),
        Architecture("qwen2", "Qwen2ForCausalLM", "Qwen2.5", _QWEN, is_like_llama=True),
        Architecture(
            "qwen2_moe", "Qwen2MoeForCausalLM", "Qwen1.5-MoE, Qwen2-57B-A14B", (*_QWEN, *_all_sparse, _untied)
        ),
        Architecture(
            "gemma3_text",
            "Gemma3ForCausalLM",
            "Gemma 3 270M, 1B",
            (_tied, _only("use_bidirectional_attention", False, "rows would see what comes after them")),
            "windows",
            branches=_AFTER_NORMS,
        ),
        Architecture(
            "gemma2",
            "Gemma2ForCausalLM",
            "Gemma 2 2B to 27B",
            (_tied, _plain_rope),
            "windows; capped scores",
            branches=_AFTER_NORMS,
            needs_matrices=True,
        ),
        Architecture(
            "gpt_oss",
            "GptOssForCausalLM",
            "gpt-oss 20B, 120B",
            (_untied,),
            f"windows; {_ONE_POOL}",
            needs_matrices=True,
        ),
        Architecture("glm4", "Glm4ForCausalLM", "GLM-4-0414 9B, 32B", branches=_AFTER_GLM_NORMS),
        Architecture("glm4_moe", "Glm4MoeForCausalLM", "GLM-4.5, 4.6, Air", (_untied,)),
        Architecture(
            "deepseek_v3", "DeepseekV3ForCausalLM", "DeepSeek V3, R1", _DEEPSEEK, "latent attention; CPUs only"
        ),
        Architecture("mixtral", "MixtralForCausalLM", "Mixtral 8x7B, 8x22B", (*_GATED, _plain_rope, _untied)),
        Architecture("phi3", "Phi3ForCausalLM", "Phi-4 14B", _GATED),
        Architecture("olmo2", "Olmo2ForCausalLM", "OLMo 2", _GATED, branches=_AFTER_NORMS),
        Architecture("granite", "GraniteForCausalLM", "Granite 3", (*_GATED, _no_mlp_bias, _no_attention_bias)),
        Architecture("exaone4", "Exaone4ForCausalLM", "EXAONE 4.0", _EXAONE, "windows", branches=_AFTER_NORMS),
        Architecture(
            "cohere",
            "CohereForCausalLM",
            "Command R (03-2024, 08-2024)",
            (*_GATED, _tied, _no_attention_bias),
            residual_is_added=True,
        ),
        Architecture(
            "starcoder2",
            "Starcoder2ForCausalLM",
            rules=(_no_window, _plain_rope),
            note="without a window; the published ones have one, which SGLang leaves out, so they are refused",
            is_gated=False,
        ),
        Architecture("stablelm", "StableLmForCausalLM", "StableLM 2 1.6B", _STABLELM),
        Architecture("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "Qwen2.5-VL", _QWEN, _NO_IMAGES),
        Architecture("qwen3_vl", "Qwen3VLForConditionalGeneration", "Qwen3-VL", _QWEN, _NO_IMAGES),
        Architecture(
            "smollm3",
            "SmolLM3ForCausalLM",
            "SmolLM3",
            (_silu, _no_window_in_use),
            _BY_TRANSFORMERS,
            is_of_transformers=True,
        ),
        Architecture(
            "ernie4_5", "Ernie4_5ForCausalLM", "ERNIE 4.5 0.3B", _GATED, _BY_TRANSFORMERS, is_of_transformers=True
        ),
    )
}
"""By the model type of the stock model, those that people serve most first."""

_LINEAR = "layers of linear attention or a state space keep a state for each request, which deep bands do not have yet"
_SPARSE = "sparse attention, whose indices are made in some layers for others above the cutoff"
_ENCODER = "an encoder, or a decoder with one: there is no prompt whose upper layers could be left out"
_DIFFUSION = "a diffusion model: it writes tokens in any order, so no prompt comes before them"
_REMOTE_CODE = "its code comes with the checkpoint, and code that is not SGLang's or transformers' own is not run"
_PER_LAYER = "layers take inputs beside the hidden states, or share keys and values across the cutoff"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text"), _LINEAR),
    **dict.fromkeys(("falcon_h1", "nemotron_h", "granitemoehybrid", "jamba", "bamba", "zamba2", "mamba2"), _LINEAR),
    **dict.fromkeys(("kimi_linear", "minimax", "lfm2", "lfm2_moe", "olmo_hybrid", "recurrent_gemma"), _LINEAR),
    **dict.fromkeys(("deepseek_v32", "deepseek_v4", "glm_moe_dsa"), _SPARSE),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "modernbert", "t5", "bart", "whisper", "mllama"), _ENCODER),
    **dict.fromkeys(("llada", "llada2", "dream", "sdar", "sdar_moe"), _DIFFUSION),
    **dict.fromkeys(("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"), _PER_LAYER),
}
"""Why models cannot be served in depth bands, by model type."""


def known_architecture(config: Config) -> Architecture:
    """The row of a config.json that has been found to have one."""
    architecture = architecture_of(config)
    assert architecture is not None, f"model_type={config.get('model_type')!r} has no depth bands"
    return architecture


def architecture_of(config: Config) -> Architecture | None:
    """The row of a config.json, with or without depth bands; None where its model type has none."""
    return ARCHITECTURES.get(stock_model_type(config))


def why_refused(config: Config) -> str | None:
    """Why the models of a config.json cannot be served; None where nobody looked, or where they are."""
    reason = REFUSED.get(stock_model_type(config))
    return reason if reason is not None or not config.get("auto_map") else _REMOTE_CODE


def stock_model_type(config: Config) -> str:
    """The model type of the stock model of a config.json, with or without depth bands."""
    return str(config.get("model_type")).removeprefix(SPEED_MODEL_TYPE)
