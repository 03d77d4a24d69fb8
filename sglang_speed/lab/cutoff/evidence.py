"""The evidence that a recommendation needs: enough answers, and enough of each kind of request that a cutoff can break.

Owns the kinds, how they are recognised from token ids, and the required numbers. A mean over all answers hides a
collapse: SmolLM2-135M untrained at 22 of 30 layers is close to full depth in short chats, but finds 30% of the needles,
where full depth finds 76% (docs/quality.md). So each kind is required, and judged separately (`advice.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sglang_speed.lab.cutoff.request import Request
from sglang_speed.policies import DepthPolicy

LONG, LOOKUPS, TOOLS = "long", "lookups", "tools"
KINDS = (LONG, LOOKUPS, TOOLS)
KIND_WORDS = {LONG: "long prompts", LOOKUPS: "lookups", TOOLS: "tool calls"}
LONG_GAP = 512
"""A prompt is long if a cutoff leaves out at least so many of its tokens."""
COPIED_TOKENS = 4
"""A response that repeats so many successive prompt tokens is a lookup, e.g. `4821` with single-digit tokens."""
NEEDED_OF_KIND = 8
"""The standard error of a mean is itself off by 1 / sqrt(2 (n - 1)): by 27% with 8 requests."""


@dataclass(frozen=True)
class Requirement:
    """needed: a number of what `words` names."""

    needed: int
    words: str


REQUIREMENTS = {
    "answers": Requirement(32, "answers"),
    # 16 per answer: the first tokens say little about the following ones
    "answer_tokens": Requirement(512, "tokens in answers"),
    LONG: Requirement(NEEDED_OF_KIND, f"prompts with {LONG_GAP} tokens or more between anchors and tail"),
    LOOKUPS: Requirement(NEEDED_OF_KIND, "lookups (answers that copy something from there)"),
    TOOLS: Requirement(NEEDED_OF_KIND, "tool calls (chats with tools)"),
}


def evidence_of(requests: Sequence[Request], policy: DepthPolicy) -> dict[str, dict[str, int]]:
    """Found and needed number of each of REQUIREMENTS."""
    kinds = [kinds_of(request, policy) for request in requests]
    found = {
        "answers": len(requests),
        "answer_tokens": sum(request.response_len for request in requests),
        **{kind: sum(kind in each for each in kinds) for kind in KINDS},
    }
    return {name: {"found": found[name], "needed": one.needed} for name, one in REQUIREMENTS.items()}


def lacking(evidence: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Unmet requirements as text; empty if there is enough evidence."""
    return [
        f"{counts['found'] or 'none'} of {counts['needed']} {REQUIREMENTS[name].words}"
        for name, counts in evidence.items()
        if counts["found"] < counts["needed"]
    ]


def kinds_of(request: Request, policy: DepthPolicy) -> frozenset[str]:
    """The KINDS of a request: none, one or several."""
    belongs = {
        LONG: policy.deep_tokens(request.prompt_len).gap >= LONG_GAP,
        LOOKUPS: is_lookup(request, policy),
        TOOLS: request.uses_tools,
    }
    return frozenset(kind for kind, does in belongs.items() if does)


def is_lookup(request: Request, policy: DepthPolicy) -> bool:
    """Whether the response repeats prompt tokens that occur only where a cutoff leaves them out.

    COPIED_TOKENS successive ones, or all of a shorter response except its last token, which ends the turn.
    """
    deep_tokens = policy.deep_tokens(request.prompt_len)
    prompt, said = request.token_ids[: request.prompt_len], request.token_ids[request.prompt_len : -1]
    length = min(COPIED_TOKENS, len(said))
    if length < 2:
        return False
    left_out = spans(prompt[deep_tokens.num_anchors : deep_tokens.deep_start], length)
    return bool(left_out & spans(said, length) - spans(prompt[deep_tokens.deep_start :], length))


def spans(token_ids: Sequence[int], length: int) -> set[tuple[int, ...]]:
    """All runs of `length` tokens."""
    shifted: Iterable[Sequence[int]] = (token_ids[start:] for start in range(length))
    return set(zip(*shifted, strict=False))
