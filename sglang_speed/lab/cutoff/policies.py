"""What other policies cost an untrained model, beside SPEED's cutoffs, on the same requests.

A series is a policy as the user writes it, a setting is one at one cutoff. The reference runs each setting by itself,
with the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sglang_speed.checkpoints.delimiters import delimiters_of
from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.rivals import Rival, rivals_of, usual_cutoffs
from sglang_speed.lab.cutoff.cutoffs import compared
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.policy_config import DEFAULT_POLICY
from sglang_speed.reference.modeling import ReferenceModel

USUAL = (
    f"{DEFAULT_POLICY},tail_tokens=128",
    "pop",
    *(f"fastkv,select_ratio={ratio}" for ratio in (0.2, 0.4, 0.8)),
)


@dataclass(frozen=True)
class Setting:
    """series: the policy as the user writes it, without the cutoff."""

    series: str
    bands: SpeedConfig


def settings_of(
    written: Sequence[str] | None, cutoffs: Sequence[int], num_layers: int, checkpoint: Path
) -> list[Setting]:
    """By series, in each by falling cutoff. SPEED without settings is left out: all its cutoffs are measured anyway.

    written: as after `--policy`; None for USUAL. cutoffs: those that the user named, which may be none. Raises
    ConfigError for what no checkpoint could have.
    """
    falling = sorted({*(cutoffs or usual_cutoffs(num_layers))} - {num_layers}, reverse=True)
    rivals = [rival for rival in rivals_of(USUAL if written is None else written) if rival != Rival()]
    found = [one for rival in rivals for one in _settings(rival, falling, num_layers, checkpoint)]
    order = list(dict.fromkeys(one.series for one in found))
    return sorted(found, key=lambda one: (order.index(one.series), -one.bands.prefill_layers))


def _settings(rival: Rival, cutoffs: Iterable[int], num_layers: int, checkpoint: Path) -> Iterable[Setting]:
    settings = dict(rival.settings)
    if settings.get("deep_message_tokens"):
        settings.setdefault("message_delimiters", delimiters_of(checkpoint))
    own = settings.pop("prefill_layers", None)
    series = ",".join(part for part in rival.name.split(",") if not part.startswith("prefill_layers="))
    for cutoff in cutoffs if own is None else [own]:
        yield Setting(series, SpeedConfig.of_policy(num_layers, cutoff, rival.policy, **settings))


@torch.no_grad()
def setting_sums(model: ReferenceModel, request: Request, settings: Sequence[Setting]) -> Tensor:
    """The measures of `cutoffs.MEASURES` of every setting, summed over the response's tokens: [num_settings, 3]."""
    if not settings:
        return torch.empty(0, 3, dtype=torch.float64)
    own = model.config.speed_config
    ids, response = request.input_ids(model.device), request.response_ids(model.device)
    full = _logprobs(model.full_depth_logits(ids, request.response_len))
    prompt = request.token_ids[: request.prompt_len]
    measured = []
    try:
        for setting in settings:
            model.run_in(setting.bands)
            logits = model(ids, model.deep_tokens(prompt)).logits[:, -request.response_len :]
            measured.append(compared(full, _logprobs(logits), response))
    finally:
        model.run_in(own)
    return torch.stack(measured).cpu()


def _logprobs(logits: Tensor) -> Tensor:
    """At least in float32, [num_rows, vocab]. logits: [1, num_rows, vocab]."""
    return logits[0].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
