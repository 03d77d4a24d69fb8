"""A turn is trained as it is served: its loss in one forward over the whole chat is the server's log-probability."""

from __future__ import annotations

import torch

from sglang_speed.reference.training import SpeedLlamaForTraining, deep_rows
from tests.server.conftest import SPEED
from tests.server.e2e.asking import Asker, require_close
from tests.tiny_models import ids_of

CHAT = ids_of(
    "A system prompt. <user>What is a cutoff? <assistant>A layer. <user>And a tail? <assistant>The last tokens."
)
TURNS = (range(48, 57), range(86, 103))


def trained_logprobs(asker: Asker, turns: tuple[range, ...]) -> list[float]:
    """Of every token that the turns say, from one forward over all of them."""
    served = asker.reference.model
    model = SpeedLlamaForTraining(served.config).eval()
    model.load_state_dict(served.state_dict())
    rows = deep_rows(model.policy, CHAT, turns)
    with torch.no_grad():
        cutoff = model.cutoff_states(model.entry_states(torch.tensor([CHAT])))[0, list(rows.positions)]
        hidden = model.deep_states(cutoff, torch.tensor(rows.positions), torch.tensor(rows.turns))
        logprobs = model.lm_head(hidden).log_softmax(-1)
    return [float(line[label]) for line, label in zip(logprobs, rows.labels, strict=True) if label >= 0]


def test_the_loss_of_each_turn_is_the_log_probability_that_the_server_gives(asker: Asker) -> None:
    """The server is asked from the tail on, so that the deep tokens of the request are those of the served turn."""
    trained = iter(trained_logprobs(asker, TURNS))
    for turn in TURNS:
        start = turn.start - SPEED["tail_tokens"]
        answer = asker.ask(CHAT[: turn.stop], 0, return_logprob=True, logprob_start_len=start)
        found = [entry[0] for entry in answer["meta_info"]["input_token_logprobs"]][-len(turn) :]
        require_close(found, [next(trained) for _ in turn])
