"""What the GPU tests ask: cold and warm prompts, prompts of many chunks, scored spans, second turns, mixed batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.gpu.closeness import Checked, Rounded
from tests.inprocess.parity.expected import OF_THE_OUTPUT, prompt, tokens
from tests.scheduler_harness import Answer, SchedulerHarness


@dataclass
class Conversation:
    """Asks a server and checks each answer; several asks of one `together` share their batches."""

    rounded: Rounded
    engine: SchedulerHarness
    checked: Checked = field(default_factory=Checked)

    def together(self, asks: Sequence[tuple[Sequence[int], int, int | None]]) -> list[Answer]:
        """asks: prompt, new tokens, first scored position. They come a step apart, so that prefills meet decodes."""
        names = [
            self.engine.submit(
                ids,
                num_new,
                when=step,
                logprob_start_len=OF_THE_OUTPUT if scored is None else scored,
                sampling={"ignore_eos": True},
            )
            for step, (ids, num_new, scored) in enumerate(asks)
        ]
        answers = self.engine.run()
        expected = [
            self.rounded.check(ids, answers[name], self.checked, scored)
            for name, (ids, _, scored) in zip(names, asks, strict=True)
        ]
        for name, logprobs in zip(names, expected, strict=True):
            self.rounded.check_logprobs(answers[name], logprobs, self.checked)
        return [answers[name] for name in names]

    def mixed(self) -> list[Answer]:
        """A batch of nine: lengths around the tail's and the chunk's, two that share their beginning, one scored."""
        shared = prompt(40)
        asks = [(prompt(length, seed=length), 12, None) for length in (1, 3, 4, 17, 64, 150)]
        asks += [(shared + tokens(9, seed=seed), 12, None) for seed in range(2)]
        return self.together([*asks, (prompt(30, seed=7), 8, 20)])

    def turns(self, num_turns: int = 3) -> list[Answer]:
        """What was answered is prompt in the next turn."""
        ids, answers = prompt(90, seed=3), []
        for turn in range(num_turns):
            (answer,) = self.together([(ids, 10, None)])
            answers.append(answer)
            ids = [*ids, *answer.output_ids, *tokens(20, seed=turn)]
        return answers
