"""LoRA adapters, chosen by each request.

An adapter of which SGLang would apply a part only is refused when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sglang.srt.configs.model_config import AttentionArch
from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.errors import ConfigError
from sglang_speed.features.base import Feature, Refusal, asks_for_adapters, on
from sglang_speed.features.quantization import method_of
from sglang_speed.host.hook import Hook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.served import served, speed_of

ON_CPU, ON_GPU = "torch_native", "csgmv"
"""Backends of SGLang's whose plans for the rows of a band are tested."""
NOT_APPLIED = (
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
)
"""Keys of adapter_config.json that change what an adapter computes, and that SGLang does not read."""
_CPU_ONLY = f"{ON_GPU} is not tested with it yet; CPUs serve it"
_MANAGER = "sglang.srt.lora.lora_manager.LoRAManager"
_IN_PART = "SGLang leaves out what it does not know of an adapter, with a warning or none, and serves the rest of it"


def _has_layers_of_transformers(args: Any) -> bool:
    return asks_for_adapters(args) and ARCHITECTURES[args.get_model_config().hf_config.model_type].is_of_transformers


def _has_latent_attention(args: Any) -> bool:
    return asks_for_adapters(args) and args.get_model_config().attention_arch == AttentionArch.MLA


def _uses_another_backend(args: Any) -> bool:
    return asks_for_adapters(args) and args.lora_backend != (ON_CPU if args.device == "cpu" else ON_GPU)


def _on_gpu(is_set: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Adapters on a GPU beside something."""
    return lambda args: asks_for_adapters(args) and args.device != "cpu" and is_set(args)


def refuse_unread_settings(manager: Any, lora_config: Any, lora_ref: Any) -> None:
    """Hook before LoRAManager.validate_new_adapter, which answers the text of a ValueError."""
    if not _is_speed(manager):
        return
    for key in NOT_APPLIED:
        value = lora_config.hf_config.get(key)
        if value and value != "none":
            raise ValueError(
                f"sglang_speed: LoRA adapter {lora_ref.lora_name} has {key}={value!r} in adapter_config.json, which "
                "SGLang would leave out; merge it into the weights, or train an adapter without it"
            )


def require_all_placed(original: Callable[..., None], manager: Any, lora_ref: Any, *args: Any) -> None:
    """Hook around LoRAManager.load_lora_weights, and the like of tensors."""
    original(manager, lora_ref, *args)
    if not hasattr(manager, "lora_modules"):  # those of the command line, which decide what is adapted
        return
    try:
        _require_placed(manager, manager.loras[lora_ref.lora_id], lora_ref.lora_name)
    except ValueError:
        del manager.loras[lora_ref.lora_id], manager.configs[lora_ref.lora_id]
        raise


def require_first_placed(_: Any, manager: Any) -> None:
    """Hook after LoRAManager.init_memory_pool: the same of adapters that the command line names."""
    if not _is_speed(manager):
        return
    from sglang.srt.lora.layers import FusedMoEWithLoRA

    if any(isinstance(module, FusedMoEWithLoRA) for layer in manager.lora_modules for module in layer.values()):
        raise ConfigError(
            "sglang_speed: adapters of experts are not proven with depth bands; leave gate_proj, up_proj and down_proj "
            "out of --lora-target-modules, and adapters that have them out of --lora-paths"
        )
    for lora_id, adapter in manager.loras.items():
        try:
            _require_placed(manager, adapter, manager.lora_refs[lora_id].lora_name)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def clear_ends(pool: Any, uid: str | None, buffer_id: int, lora_adapter: Any, *args: Any, **kwargs: Any) -> None:
    """Hook before LoRAMemoryPool.load_lora_weight_to_buffer: an adapter of the embedding or of the head alone does not
    get what the one before it in this place had of the other."""
    if served() is None or lora_adapter is None:
        return
    for buffers in (pool.embedding_A_buffer, pool.embedding_B_buffer, pool.lm_head_A_buffer, pool.lm_head_B_buffer):
        for buffer in buffers.values():
            buffer[buffer_id].zero_()


def _require_placed(manager: Any, adapter: Any, name: str) -> None:
    if not _is_speed(manager):
        return
    left_out = sorted(_left_out(manager, adapter))
    if left_out:
        raise ValueError(
            f"sglang_speed: LoRA adapter {name} has {left_out[0]}, one of {len(left_out)} weights for which the model "
            "has no adapted layer: SGLang adapts keys and values with queries only, up_proj with gate_proj only, and "
            "what --lora-target-modules or the adapters of the command line name"
        )


def _left_out(manager: Any, adapter: Any) -> Iterator[str]:
    """Names of weights that no layer of the model gets."""
    ends = {"embed_tokens": manager.embed_tokens_module, "lm_head": manager.lm_head_module}
    for layer, modules in zip(adapter.layers, manager.lora_modules, strict=True):
        adapted = {module.rsplit(".", 1)[-1] for module in modules}
        yield from (name for name in layer.weights if _module_of(name) not in adapted)
    yield from (name for name in adapter.embedding_layers if ends.get(_module_of(name)) is None)


def _module_of(weight: str) -> str:
    """`model.layers.0.mlp.down_proj.lora_A.weight` is of down_proj."""
    *owner, factor = weight.removesuffix(".weight").split(".")
    return owner[-1] if factor in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B") else factor


def _is_speed(manager: Any) -> bool:
    return speed_of(getattr(manager.base_model, "config", None)) is not None


def _load_hook(name: str, *parameters: str) -> Hook:
    return Hook(
        target=f"{_MANAGER}.{name}",
        parameters={NEWEST: ("self", "lora_ref", *parameters)},
        kind=HookType.AROUND,
        function=require_all_placed,
        reason=_IN_PART,
        remove_when="SGLang refuses an adapter of which it would leave out weights when it loads it",
    )


def _with(what: str, is_set: Callable[[Any], bool], reason: str) -> Refusal:
    """What is served without adapters only."""
    flag = f"--enable-lora with {what}"
    message = f"{flag} is not supported ({reason}); merge the adapter into the weights and leave the flag out"
    return Refusal(flag, is_set, reason, message=lambda _: message, versions=(NEWEST,))


FEATURE = Feature(
    name="LoRA",
    served=(
        "--enable-lora",
        "--lora-paths",
        f"--lora-backend {ON_CPU} on a CPU, {ON_GPU} on a GPU",
        "/load_lora_adapter, /unload_lora_adapter",
    ),
    proof=(
        "tests/inprocess/parity/test_lora.py",
        "tests/inprocess/parity/test_lora_of_architectures.py",
        "tests/server/e2e/test_lora_over_http.py",
    ),
    note="[what is served of an adapter](lora.md)",
    refusals=(
        Refusal("--enable-lora", on("enable_lora"), f"not proven with SGLang {OLDEST}", versions=(OLDEST,)),
        Refusal("--lora-paths", on("lora_paths"), f"not proven with SGLang {OLDEST}", versions=(OLDEST,)),
        Refusal(
            "--lora-backend",
            _uses_another_backend,
            f"its plans for the rows of a band are not tested; those of {ON_CPU} on a CPU and {ON_GPU} on a GPU are",
            versions=(NEWEST,),
        ),
        _with(
            "an architecture that SGLang takes from transformers",
            _has_layers_of_transformers,
            "SGLang's LoRA layers do not fit those of transformers",
        ),
        _with("latent attention (DeepSeek)", _has_latent_attention, "adapters of its projections are not proven"),
        _with("NGRAM on a GPU", _on_gpu(lambda args: args.speculative_algorithm == "NGRAM"), _CPU_ONLY),
        _with("quantized weights on a GPU", _on_gpu(lambda args: method_of(args) is not None), _CPU_ONLY),
    ),
    hooks=(
        Hook(
            target=f"{_MANAGER}.validate_new_adapter",
            parameters={NEWEST: ("self", "lora_config", "lora_ref")},
            kind=HookType.BEFORE,
            function=refuse_unread_settings,
            reason=_IN_PART,
            remove_when="SGLang refuses settings of adapters that it does not apply",
        ),
        Hook(
            target=f"{_MANAGER}.init_memory_pool",
            parameters={NEWEST: ("self",)},
            kind=HookType.AFTER,
            function=require_first_placed,
            reason=_IN_PART,
            remove_when="SGLang refuses an adapter of which it would leave out weights when it loads it",
        ),
        Hook(
            target="sglang.srt.lora.mem_pool.LoRAMemoryPool.load_lora_weight_to_buffer",
            parameters={
                NEWEST: (
                    "self",
                    "uid",
                    "buffer_id",
                    "lora_adapter",
                    "lora_modules",
                    "lora_embed_tokens_module",
                    "lora_lm_head_module",
                )
            },
            kind=HookType.BEFORE,
            function=clear_ends,
            reason="SGLang clears a place of embedding and head only for an adapter that has neither",
            remove_when="SGLang clears what an adapter has no weights of",
        ),
        _load_hook("load_lora_weights"),
        _load_hook("load_lora_weights_from_tensors", "tensors"),
    ),
)
