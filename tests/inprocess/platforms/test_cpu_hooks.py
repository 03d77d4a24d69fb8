"""Claims about the CPU platform's changes to SGLang."""

from __future__ import annotations

import torch

from sglang_speed.platforms.cpu.hooks import allocate_token_bitmask, apply_vocab_mask, without_nccl


def test_a_fresh_bitmask_allows_every_token() -> None:
    logits = torch.randn(3, 70)
    bitmask = allocate_token_bitmask(vocab_size=70, batch_size=3)
    masked = logits.clone()
    apply_vocab_mask(masked, bitmask)
    assert torch.equal(masked, logits)


def test_forbidden_tokens_get_no_probability() -> None:
    logits = torch.zeros(2, 40)
    bitmask = allocate_token_bitmask(vocab_size=40, batch_size=2)
    bitmask[1] = torch.tensor([0b101, 0], dtype=torch.int32)
    apply_vocab_mask(logits, bitmask)
    assert torch.isfinite(logits[0]).all()
    assert torch.isfinite(logits[1]).nonzero().flatten().tolist() == [0, 2]


def test_process_groups_go_without_nccl_whatever_the_caller_asks_for() -> None:
    assert without_nccl([[0, 1]], 0, "gloo", use_pynccl=True, group_name="tp") == (
        ([[0, 1]], 0, "gloo"),
        {"use_pynccl": False, "group_name": "tp"},
    )
