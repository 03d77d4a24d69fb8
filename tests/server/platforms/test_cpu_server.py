"""Claims about a plain Llama served over HTTP on a CPU: transformers, in float32, is the reference."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.server.servers import RunningServer, running_server
from tests.tiny_models import ids_of, make_tiny_model

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="SGLang has a platform of its own for GPUs")

NUM_NEW = 12
GREEDY = {"temperature": 0, "max_new_tokens": NUM_NEW, "ignore_eos": True}
PROMPTS = [ids_of(text) for text in ("a", "pages of sixteen", "a prompt of several chunks, because it is this long")]
LOGPROB_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "llama", num_layers=4)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a compiler that the server starts would leave what it made."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def server(checkpoint: Path, compiled: Path) -> Iterator[RunningServer]:
    flags = ("--dtype", "float32", "--page-size", "16", "--chunked-prefill-size", "32", "--max-total-tokens", "4096")
    with running_server(checkpoint, *flags, env={"TORCHINDUCTOR_CACHE_DIR": str(compiled)}) as server:
        yield server


def continuation(reference: LlamaForCausalLM, prompt: list[int]) -> list[int]:
    with torch.no_grad():
        ids = reference.generate(torch.tensor([prompt]), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None)
    return ids[0, len(prompt) :].tolist()


def test_cold_and_cached_prompts_continue_as_in_transformers(
    server: RunningServer, reference: LlamaForCausalLM
) -> None:
    expected = [continuation(reference, prompt) for prompt in PROMPTS]
    server.flush_cache()
    for cached in ([0, 0, 0], [0, 16, 48]):
        answers = [server.generate(input_ids=prompt, sampling_params=GREEDY) for prompt in PROMPTS]
        assert [answer["output_ids"] for answer in answers] == expected
        assert [answer["meta_info"]["cached_tokens"] for answer in answers] == cached


def test_requests_at_once_do_not_disturb_each_other(server: RunningServer, reference: LlamaForCausalLM) -> None:
    prompts = PROMPTS * 4
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: server.generate(input_ids=prompt, sampling_params=GREEDY), prompts))
    expected = {tuple(prompt): continuation(reference, prompt) for prompt in PROMPTS}
    assert [answer["output_ids"] for answer in answers] == [expected[tuple(prompt)] for prompt in prompts]


def test_input_log_probabilities_are_those_of_transformers(server: RunningServer, reference: LlamaForCausalLM) -> None:
    prompt = PROMPTS[2]
    answer = server.generate(input_ids=prompt, sampling_params=GREEDY, return_logprob=True, logprob_start_len=0)
    found = torch.tensor([logprob for logprob, *_ in answer["meta_info"]["input_token_logprobs"][1:]])
    with torch.no_grad():
        logprobs = reference(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=LOGPROB_TOLERANCE, rtol=0)


def test_a_constraint_is_obeyed(server: RunningServer) -> None:
    sampling_params = {"temperature": 0, "max_new_tokens": 8, "regex": "[0-9]{8}"}
    texts = [a["text"] for a in server.generate(text=["one", "two"], sampling_params=sampling_params)]
    assert all(text.isdigit() and len(text) == 8 for text in texts)


def test_penalties_do_not_wait_for_a_compiler(server: RunningServer, compiled: Path) -> None:
    sampling_params = {**GREEDY, "repetition_penalty": 1.2, "frequency_penalty": 0.5}
    answer = server.generate(input_ids=PROMPTS[0], sampling_params=sampling_params)
    assert len(answer["output_ids"]) == NUM_NEW
    assert not [path for path in compiled.rglob("*") if path.is_file()]
