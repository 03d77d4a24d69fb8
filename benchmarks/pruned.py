"""Write a model without the layers that change hidden states least, for prompts and answers alike.

The baseline beside policies of depth, which spare layers for prompts only. A layer's block influence is one minus the
mean cosine between the hidden states before and after it (ShortGPT, arXiv 2403.03853). Here over the chats of
`sglang-speed eval`, drawn with another seed than it asks.

python benchmarks/pruned.py BASE OUT --layers 22 && sglang-speed eval "pruned, 22 of 30=OUT" --full-depth BASE
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sglang_speed.lab.common.chat import Chat, ChatFormat  # noqa: E402
from sglang_speed.lab.evaluation.prompts import chats  # noqa: E402

SEED = 1
NUM_CHATS = 48


def main(
    base: Annotated[Path, typer.Argument(help="Checkpoint of a plain model.")],
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
    layers: Annotated[int, typer.Option(help="Layers to keep.", min=1)],
) -> None:
    """Measure, prune and write."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chat_format = ChatFormat.of_checkpoint(base)
    prompts = [chat_format.prompt_ids(Chat(list(messages))) for _, messages in chats(SEED, NUM_CHATS)]
    influence = block_influence(model, prompts)
    kept = most_influential(influence, layers)
    prune(model, kept)
    model.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
    left_out = sorted(set(range(len(influence))) - set(kept))
    print(f"{out}: without layers {', '.join(map(str, left_out))} of {len(influence)}")


@torch.no_grad()
def block_influence(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """[num_layers]: mean over all tokens of `prompts`."""
    changed: list[Tensor] = []

    def compare(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        changed.append(1 - functional.cosine_similarity(args[0], output, dim=-1))

    hooks = [layer.register_forward_hook(compare) for layer in model.get_decoder().layers]
    sums = torch.zeros(len(hooks), dtype=torch.float64)
    for prompt in prompts:
        changed.clear()
        model(torch.tensor([prompt]))
        sums += torch.stack([each.sum() for each in changed])
    for hook in hooks:
        hook.remove()
    return sums / sum(map(len, prompts))


def most_influential(influence: Tensor, num_layers: int) -> list[int]:
    """The layers with the largest influence, in their order."""
    return sorted(influence.topk(num_layers).indices.tolist())


def prune(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep these layers only."""
    decoder = model.get_decoder()
    decoder.layers = nn.ModuleList(decoder.layers[index] for index in kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]


if __name__ == "__main__":
    typer.run(main)
