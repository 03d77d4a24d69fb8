"""The visibility of training: every assistant turn of a conversation as it will be served, in one forward.

The shallow band runs over whole conversations. In the deep band each turn is a sequence of its own, as in serving
under the strict rule: the anchors, the last `tail_tokens` of the prompt before it, and what it says; earlier turns are
prompt, so they are absent. The sequences of all turns are packed one after another, and a row sees the rows before
it in its own turn. A position can thus be a row of several turns, each time with other deep hidden states.

Owns the rows, their mask and the loss. Where conversations come from and how weights move is their caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_causal_mask

from sglang_speed.method import DepthBand
from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.policies import DepthPolicy
from sglang_speed.reference.modeling import IGNORED_LABEL, ReferenceModel, SpeedOutput, model_class
from sglang_speed.reference.turn_attention import TURN_ATTENTION, turn_mask

LOGIT_ROWS = 1024
"""Logits are float32 over the whole vocabulary, several times in a divergence: 0.5 GB each for so many of Llama 3."""


@dataclass(frozen=True)
class DeepRows:
    """The rows of a conversation's turns in the deep band, packed turn after turn.

    positions: where each row stands in the conversation, which is its position for RoPE too.
    turns: the turn that a row belongs to.
    labels: the token that the turn says after a row, IGNORED_LABEL where it says none.
    """

    positions: tuple[int, ...]
    turns: tuple[int, ...]
    labels: tuple[int, ...]


def deep_rows(policy: DepthPolicy, token_ids: Sequence[int], turns: Sequence[range]) -> DeepRows:
    """The deep tokens of every turn, without the turn's last token, after which it says nothing.

    turns: positions of what each turn says; a turn's prompt is everything before it, at least one token.
    """
    positions: list[int] = []
    owners: list[int] = []
    labels: list[int] = []
    for number, turn in enumerate(turns):
        deep = policy.deep_tokens(prompt_len=turn.start)
        anchors, decode_phase = deep.computed_in(0, turn.stop - 1)
        rows = [*anchors, *decode_phase]
        positions += rows
        owners += [number] * len(rows)
        labels += [token_ids[row + 1] if row + 1 in turn else IGNORED_LABEL for row in rows]
    return DeepRows(tuple(positions), tuple(owners), tuple(labels))


class TrainingModel(ReferenceModel):
    """The reference model with the forward of training; its weights are the same."""

    # the Trainer tells how many labels a step has over all its batches
    accepts_loss_kwargs = True
    entry_layer = 0
    """The first layer above those whose states are kept from before; at most the cutoff."""

    def forward(  # type: ignore[override]
        self,
        positions: Tensor,
        turns: Tensor,
        labels: Tensor,
        input_ids: Tensor | None = None,
        entry_states: Tensor | None = None,
        rows: Tensor | None = None,
        cutoff_states: Tensor | None = None,
        teacher_states: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> SpeedOutput:
        """The loss over what the turns say.

        positions, turns, labels: [num_rows], of all rows in the deep band (see DeepRows); turns of different
            conversations differ.
        input_ids: [num_conversations, num_tokens], padded on the right; rows: [num_rows], where each row stands in
            them, counted over the flattened conversations.
        entry_states: [num_conversations, num_tokens, hidden_size], in place of the token ids: what enters
            `entry_layer`, kept from before.
        cutoff_states: [num_rows, hidden_size], in place of all three: the shallow band's output, kept from before.
        teacher_states: [num_labels, hidden_size], the teacher's last hidden states (after its final norm) at the rows
            that have a label. With them the loss is KL(teacher || model), otherwise the cross-entropy of the labels.
        num_items_in_batch: what the summed loss is divided by; the number of labels where it is not given.
        """
        if cutoff_states is None:
            if entry_states is None:
                assert input_ids is not None, "neither states nor token ids were given"
                entry_states = self.entry_states(input_ids)
            cutoff_states = self.cutoff_states(entry_states).flatten(0, 1)[rows]
        hidden = self.deep_states(cutoff_states, positions, turns)
        said = labels != IGNORED_LABEL
        if teacher_states is None:
            loss = _sum_over_chunks(self._cross_entropy, hidden[said], labels[said])
        else:
            loss = _sum_over_chunks(self._kl, hidden[said], teacher_states)
        return SpeedOutput(loss=loss / (said.sum() if num_items_in_batch is None else num_items_in_batch))

    def entry_states(self, input_ids: Tensor) -> Tensor:
        """What enters `entry_layer`, [num_conversations, num_tokens, hidden_size]."""
        return self._run_all_tokens(self.model.embed_tokens(input_ids), 0, self.entry_layer)

    def cutoff_states(self, entry_states: Tensor) -> Tensor:
        """The shallow band's output, of the same shape."""
        return self._run_all_tokens(entry_states, self.entry_layer, self.bands[0].end_layer)

    def full_depth_states(self, cutoff_states: Tensor) -> Tensor:
        """What follows from the shallow band's output at full depth, after the final norm; of the same shape."""
        last = self._run_all_tokens(cutoff_states, self.bands[0].end_layer, self.config.num_hidden_layers)
        states: Tensor = self.model.norm(last)
        return states

    def _run_all_tokens(self, hidden: Tensor, first_layer: int, end_layer: int) -> Tensor:
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        mask = create_causal_mask(self.config, hidden, attention_mask=None, past_key_values=None)
        return self.run_layers(DepthBand("all tokens", first_layer, end_layer), hidden, positions, mask)

    def deep_states(self, cutoff_states: Tensor, positions: Tensor, turns: Tensor) -> Tensor:
        """The deep band's output after the final norm, [num_rows, hidden_size]."""
        hidden = cutoff_states[None]
        mask = self._turn_mask(hidden, turns)
        for band in self.bands[1:]:
            hidden = self.run_layers(band, hidden, positions, mask)
        states: Tensor = self.model.norm(hidden)[0]
        return states

    def run_layers(self, band: DepthBand, hidden: Tensor, positions: Tensor, mask: Any) -> Tensor:
        """Run a band's layers over rows that see what `mask` shows, in the form that the attention takes."""
        position_embeddings = self.model.rotary_emb(hidden, positions[None])
        for layer in self.model.layers[band.first_layer : band.end_layer]:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=position_embeddings)
        return hidden

    def _turn_mask(self, hidden: Tensor, turns: Tensor) -> Any:
        """A row sees the rows before it in its own turn; in the form that the attention takes."""
        if self.config._attn_implementation == TURN_ATTENTION:
            return turn_mask(turns)

        def same_turn(batch: Tensor, head: Tensor, row: Tensor, seen: Tensor) -> Tensor:
            return turns[row] == turns[seen]

        return create_causal_mask(
            self.config, hidden, attention_mask=None, past_key_values=None, and_mask_function=same_turn
        )

    def _kl(self, hidden: Tensor, teacher_states: Tensor) -> Tensor:
        """Summed KL(teacher || model) of rows of both; the head is shared, since it is not trained."""
        with torch.no_grad():
            teacher = self.lm_head(teacher_states.to(self.lm_head.weight.dtype)).float().log_softmax(-1)
        model = self.lm_head(hidden).float().log_softmax(-1)
        return functional.kl_div(model, teacher, reduction="sum", log_target=True)

    def _cross_entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.lm_head(hidden).float(), labels, reduction="sum")


def _sum_over_chunks(loss: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """The loss of all rows, with the logits of LOGIT_ROWS in memory at once: the backward pass makes them again."""
    if len(hidden) <= LOGIT_ROWS:
        return loss(hidden, targets)
    chunks = zip(torch.split(hidden, LOGIT_ROWS), torch.split(targets, LOGIT_ROWS), strict=True)
    return torch.stack([checkpoint(loss, *chunk, use_reentrant=False) for chunk in chunks]).sum()


SpeedLlamaForTraining = model_class(ARCHITECTURES["llama"], TrainingModel)
