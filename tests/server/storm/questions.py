"""What a storm asks and what came back. Knows neither HTTP nor the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

End = Literal["finished", "aborted", "disconnected", "refused", "failed"]
"""How a request ended: with its answer; stopped by an abort or by its client, perhaps after a part of it; with
status 400; or in any other way, which is an error."""


@dataclass(frozen=True)
class Question:
    """One request. Greedy, unless a temperature says otherwise.

    scored_from: first position whose log-probability is asked for. pattern: regex that the answer must match.
    fields: further fields of /generate.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    scored_from: int | None = None
    pattern: str | None = None
    temperature: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> str | None:
        """What comes and goes has more behind its name."""
        name = self.fields.get("lora_path")
        return None if name is None else str(name).split("-")[0]

    def payload(self) -> dict[str, Any]:
        """The JSON object of /generate."""
        sampling: dict[str, Any] = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        sampling |= {"ignore_eos": True} if self.temperature else {}
        payload = {"input_ids": list(self.prompt), "sampling_params": sampling, **self.fields}
        if self.pattern is not None:
            payload["sampling_params"] = sampling | {"regex": self.pattern}
        if self.scored_from is not None:
            payload |= {"return_logprob": True, "logprob_start_len": self.scored_from}
        return payload


@dataclass(frozen=True)
class Outcome:
    """One answer, or the reason why there is none.

    is_foreseen: whether a request of its kind may end so. meta: SGLang's `meta_info`. words: of an error.
    """

    kind: str
    question: Question
    end: End
    is_foreseen: bool = True
    output_ids: tuple[int, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
