"""`sglang-speed train`: from chats to a checkpoint that SGLang serves.

Owns the order of the steps and the working folder with their outputs: answered.jsonl, states/, trainer/, and adapter/
with the LoRA factors. From there, an interrupted run continues when the command is repeated.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sglang_speed.checkpoints.adapter import require_untrained
from sglang_speed.checkpoints.atomic import (
    absolute,
    apply_umask,
    new_directory,
    require_free,
    require_writable,
    writing_to,
)
from sglang_speed.checkpoints.card import write_card
from sglang_speed.checkpoints.convert import fill_full_depth, fill_trained, read_source_config, speed_model_config
from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.checkpoints.weights import read_weights, require_layers
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat, Conversation, read_chats, read_conversations
from sglang_speed.lab.common.data import chats_file
from sglang_speed.lab.common.local_server import exit_on_sigterm, start_server
from sglang_speed.lab.common.machine import answering_flags, has_fast_bfloat16
from sglang_speed.lab.common.progress import show_steps, silence_libraries
from sglang_speed.lab.training.answers import answer_all, is_open, read_answered
from sglang_speed.lab.training.batches import TrainingExamples
from sglang_speed.lab.training.checks import checked_chats, num_held_out, refuse_several_processes
from sglang_speed.lab.training.options import TrainOptions
from sglang_speed.lab.training.progress import console, count
from sglang_speed.lab.training.record import Record, claim_work, fingerprint, losses_of
from sglang_speed.lab.training.run import train
from sglang_speed.lab.training.settings import Objective, Settings, TrainingRun
from sglang_speed.lab.training.spans import with_spans
from sglang_speed.lab.training.states import StateFolder
from sglang_speed.models.architectures import ARCHITECTURES, known_architecture
from sglang_speed.models.hf_config import config_of
from sglang_speed.policies import SpeedPolicy
from sglang_speed.policy_config import DEFAULT_TAIL_TOKENS
from sglang_speed.quantization import require_unquantized
from sglang_speed.reference.modeling import class_for
from sglang_speed.reference.training import TrainingModel
from sglang_speed.reference.turn_attention import TURN_ATTENTION


def run_of(options: TrainOptions) -> TrainingRun:
    """Resolve the options. Raises ConfigError for invalid settings, or several processes."""
    refuse_several_processes()
    source, destination = local_checkpoint(options.source), absolute(options.destination)
    tails = tuple(dict.fromkeys(options.tail_tokens or (DEFAULT_TAIL_TOKENS,)))
    config = read_source_config(source)
    _require_trainable(config, source)
    num_layers = config["num_hidden_layers"]
    return TrainingRun(
        source=source,
        destination=destination,
        data=chats_file(options.data),
        settings=Settings(
            **vars(options.hyperparameters),
            speed=SpeedConfig(num_layers, options.prefill_layers, options.anchor_tokens, tails[0]),
            tails=tails,
            log_to=options.log_to,
        ),
        work=options.work or destination.with_name(f"{destination.name}.work"),
        url=options.url,
        server_flags=options.flags or (),
    )


def _require_trainable(config: Mapping[str, Any], source: Path) -> None:
    require_unquantized(config, source, "trained")
    if not known_architecture(config).is_like_llama:
        known = [row.model_type for row in ARCHITECTURES.values() if row.is_like_llama]
        raise ConfigError(
            f"model_type={config['model_type']!r} has other layers than Llama, and only these can be trained: choose a "
            f"checkpoint of one of {', '.join(known)}, or serve this one untrained"
        )


def train_checkpoint(run: TrainingRun) -> Record:
    """Train and write the checkpoint to the destination.

    Raises ConfigError for invalid data, settings or folders, before anything long begins.
    """
    exit_on_sigterm()
    silence_libraries()
    source, settings = run.source, run.settings
    if settings.objective == Objective.DISTIL:
        require_untrained(source, "the teacher")
    require_layers(read_weights(source), read_source_config(source), source)
    require_free(run.destination)
    chat_format = ChatFormat.of_checkpoint(source)
    context_len = read_source_config(source).get("max_position_embeddings", settings.max_tokens)
    chats = checked_chats(read_chats(run.data), chat_format, settings, context_len)
    require_writable(run.destination)
    claim_work(run.work, fingerprint(source, run.data, settings))
    with writing_to(run.work, "make room there, and repeat the command to continue"):
        answered = _answer(run, chats, chat_format)
        conversations = read_conversations(answered, chat_format, min(settings.max_tokens, context_len))
        model = load_model(source, settings)
        trainer = _train(model, conversations, settings, run.work)
    record = Record.of_run(source, run.data, settings, conversations, losses_of(trainer))
    _write(run, trainer, record)
    return record


def load_model(source: Path, settings: Settings) -> TrainingModel:
    """The source's weights with the bands of `settings`, in the training dtype, on the GPU if there is one."""
    config = config_of(speed_model_config(read_source_config(source), settings.speed))
    attention = TURN_ATTENTION if torch.cuda.is_available() else "sdpa"
    model: TrainingModel = class_for(config, TrainingModel).from_pretrained(
        source, config=config, dtype="auto", attn_implementation=attention
    )
    if model.dtype is torch.float16 or not has_fast_bfloat16():
        model.float()  # float16 gradients need scaling; the result is saved in the source's dtype
    model.entry_layer = settings.lowest_layer
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model


def _answer(run: TrainingRun, chats: list[Chat], chat_format: ChatFormat) -> Path:
    """The file of chats with all messages written: the data itself if none is open."""
    if not any(map(is_open, chats)):
        return run.data
    answered, sampling = run.work / "answered.jsonl", run.settings.sampling
    flags = [*answering_flags(sampling.concurrency), *run.server_flags]
    with _full_depth_server(run.source, run.work, run.url, flags) as address:
        steps = answer_all(chats, answered, address, chat_format, sampling)
        show_steps(console, "Answering", steps, len(chats))
    read_answered(answered, len(chats))
    return answered


@contextmanager
def _full_depth_server(source: Path, work: Path, url: str | None, flags: Sequence[str]) -> Iterator[str]:
    if url is not None:
        yield url.rstrip("/")
        return
    with tempfile.TemporaryDirectory(dir=work, prefix="full-depth-") as directory:
        fill_full_depth(source, Path(directory))
        log = work / "server.log"
        console.print(f"starting a server at full depth; its log is {log}", soft_wrap=True)
        server = start_server(directory, log, flags)
        try:
            server.wait()
            yield server.url
        except ConfigError:
            server.require_alive()
            raise
        finally:
            server.stop()


def _train(model: TrainingModel, conversations: list[Conversation], settings: Settings, work: Path) -> Any:
    order = list(range(len(conversations)))
    draw = random.Random(settings.seed)
    draw.shuffle(order)
    split = num_held_out(len(order), settings)
    if settings.span_tokens:
        conversations = with_spans(conversations, order[split:], settings.span_tokens, draw)
    states = None
    if settings.keeps_states:
        longest = SpeedPolicy(settings.speed.with_tail(max(settings.all_tails)))
        states = StateFolder(work / "states", longest)
        show_steps(console, "Hidden states", states.capture_all(model.eval(), conversations), len(conversations))

    def examples(numbers: list[int], tails: Sequence[int]) -> TrainingExamples:
        return TrainingExamples(
            conversations,
            numbers,
            settings.speed,
            tails,
            states,
            entry_layer=settings.lowest_layer,
            distil=settings.objective == Objective.DISTIL,
        )

    trained_on = examples(order[split:], settings.all_tails)
    held_out = examples(order[:split], (settings.speed.tail_tokens,))
    return train(model, trained_on, held_out, settings, work / "trainer")


def _write(run: TrainingRun, trainer: Any, record: Record) -> None:
    """Write the trained checkpoint, LoRA merged into the weights, in the source's dtype."""
    model = trainer.model
    if run.settings.lora_rank:
        model.save_pretrained(run.work / "adapter")
        apply_umask(run.work / "adapter")
        model = model.merge_and_unload()
    model = model.to(read_dtype(run.source))
    with writing_to(run.destination), new_directory(run.destination) as directory:
        fill_trained(run.source, directory, run.settings.speed, model.save_pretrained)
        record.write(directory)
        write_card(directory, record.source)


def read_dtype(source: Path) -> torch.dtype:
    """The dtype in a checkpoint's config, or that of most of its weights."""
    config = read_source_config(source)
    name = config.get("dtype") or config.get("torch_dtype") or read_weights(source).dtype
    return getattr(torch, name)


def finish(record: Record, destination: Path) -> None:
    """Print what was made, and the loss before and after."""
    trained_on = count(record.num_chats - record.num_held_out, "chat")
    tokens = count(record.num_said_tokens, "token")
    if not record.num_held_out:
        console.print(
            f"{destination}: trained on {trained_on}, {tokens} of answers in all; none held out, so its effect was not "
            "measured: give more chats, or raise --held-out",
            soft_wrap=True,
        )
        return
    console.print(
        f"{destination}: trained on {trained_on}, {record.num_held_out} more held out; {tokens} of answers in all",
        soft_wrap=True,
    )
    if record.first_loss is not None and record.last_loss is not None:
        name = "KL to full depth" if record.settings["objective"] == Objective.DISTIL else "cross-entropy"
        console.print(
            f"{name}, nats per token of the held-out chats: {record.first_loss:.4f} -> {record.last_loss:.4f}"
        )
