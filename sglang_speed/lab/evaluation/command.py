"""`sglang-speed eval`: from options to a table, a results file and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from rich.progress import Progress

from sglang_speed.checkpoints.convert import read_source_config
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import ChatFormat
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.local_server import exit_on_sigterm
from sglang_speed.lab.common.outputs import Outputs
from sglang_speed.lab.common.progress import print_written, progress_bars, wide_console
from sglang_speed.lab.evaluation import DEFAULT_TASKS, NUM_SAMPLES
from sglang_speed.lab.evaluation.measure import RESPONSES
from sglang_speed.lab.evaluation.options import EvaluationOptions
from sglang_speed.lab.evaluation.plots import draw
from sglang_speed.lab.evaluation.references import ReferenceFile
from sglang_speed.lab.evaluation.report import terminal_table
from sglang_speed.lab.evaluation.results import Results
from sglang_speed.lab.evaluation.run import Evaluation, Suite
from sglang_speed.lab.evaluation.subjects import Subject, full_depth_of, is_url, running, subjects_of
from sglang_speed.lab.evaluation.tasks import LENGTHS, TASKS
from sglang_speed.lab.evaluation.tasks.needle import Needle

TASK_NAMES = (RESPONSES, *TASKS)

console = wide_console(150)


def evaluate(options: EvaluationOptions) -> None:
    """Evaluate, print the table, write the results.

    Raises ConfigError for models that cannot be evaluated or compared, before a server is started.
    """
    outputs, flags = Outputs(options.json, options.plot), options.flags
    suite = suite_of(options)
    full_depth, subjects = compared(options)
    chat_format = chat_format_of([full_depth, *subjects])
    require_context(suite, chat_format, [full_depth, *subjects])
    outputs.require_writable()
    chosen = {
        "full_depth": full_depth.digest,
        "chat": chat_format.digest,
        "num_samples": suite.num_samples,
        "seed": suite.seed,
        "lengths": list(suite.lengths),
        "flags": list(flags),
    }
    results = Results(outputs.json, chosen)
    logs = outputs.make_logs()
    logs.mkdir(parents=True, exist_ok=True)
    references = ReferenceFile((outputs.json or logs / "eval.json").with_suffix(".references.json"))
    exit_on_sigterm()
    console.print(f"logs and answers are in {logs}", soft_wrap=True)
    with progress_bars(console) as progress:
        watch = progress_watcher(progress)
        run = Evaluation(full_depth, subjects, suite, chat_format, results, references, logs, flags, watch)
        run.run(options.servers)
    finish(results, outputs)


def suite_of(options: EvaluationOptions) -> Suite:
    """The chosen tasks."""
    for name in options.task or ():
        if name not in TASK_NAMES:
            raise ConfigError(f"--task {name} is not one of {', '.join(TASK_NAMES)}: choose some of these")
    if options.servers < 1:
        raise ConfigError(f"--servers {options.servers} is below 1: give the number of servers to run at a time")
    tasks = tuple(dict.fromkeys(options.task or DEFAULT_TASKS))
    for name in tasks:
        together = TASKS[name].drawn_together if name in TASKS else 1
        if options.samples <= together:
            raise ConfigError(
                f"--samples {options.samples} is too few for {name}: an error needs more than the {together} that "
                f"belong together; {NUM_SAMPLES} is the default"
            )
    return Suite(tasks, options.samples, options.seed, tuple(sorted(set(options.length or LENGTHS))))


def compared(options: EvaluationOptions) -> tuple[Subject, list[Subject]]:
    """The full-depth model, and the other models to compare with it.

    Without --full-depth, a single untrained model is compared with its own weights at full depth.
    """
    if (options.url is None) == (not options.checkpoints):
        raise ConfigError("name either checkpoints or the --url of a running server, not both or neither")
    if options.full_depth is None and (options.url is not None or len(options.checkpoints) > 1):
        raise ConfigError(
            "--full-depth is missing: a server or several models need a full-depth model to be compared with; give its "
            "checkpoint or URL"
        )
    if options.url is not None and options.tail_tokens:
        raise ConfigError("--tail-tokens needs a checkpoint: the tail of a running server is fixed")
    if options.url is not None:
        subjects = [running(options.url, "server")]
    else:
        subjects = [
            subject for model in options.checkpoints for subject in subjects_of(model, options.tail_tokens or ())
        ]
    first = subjects[0].source
    full_depth = full_depth_of(first if options.full_depth is None else options.full_depth)
    return full_depth, unique([subject for subject in subjects if subject.digest != full_depth.digest])


def unique(subjects: Sequence[Subject]) -> list[Subject]:
    """Each model once. Raises ConfigError for two models with one label, which tables and logs go by."""
    once = {subject.digest: subject for subject in reversed(subjects)}
    found = list(reversed(once.values()))
    for one, other in combinations(found, 2):
        if one.label == other.label:
            raise ConfigError(
                f"{one.source} and {other.source} are both called {one.label!r}, and tables and logs go by that: write "
                "NAME=DIR with another name for one of them"
            )
    return found


def chat_format_of(subjects: Sequence[Subject]) -> ChatFormat:
    """The common chat format. Raises ConfigError if they differ, or if no tokenizer is on this machine."""
    paths = [path for path in map(tokenizer_directory, subjects) if path is not None]
    formats = {path: ChatFormat.of_checkpoint(path) for path in dict.fromkeys(paths)}
    if not formats:
        raise ConfigError(
            f"no tokenizer of {', '.join(subject.source for subject in subjects)} is on this machine, where prompts "
            "are made: give the checkpoint directory as --full-depth"
        )
    (first, chat_format), *others = formats.items()
    for path, other in others:
        if other.digest != chat_format.digest:
            raise ConfigError(
                f"{path} and {first} have different vocabularies or chat templates, so the same token ids mean "
                "different things: compare a model with its own base"
            )
    return chat_format


def require_context(suite: Suite, chat_format: ChatFormat, subjects: Sequence[Subject]) -> None:
    """Raise ConfigError if a prompt exceeds a checkpoint's context; a running server refuses it itself."""
    for answers in suite.answers(chat_format):
        needed = answers.longest_prompt + answers.task.max_new_tokens
        fix = "choose a shorter --length, in words, or omit" if answers.name == Needle.name else "omit"
        for path in {subject.source for subject in subjects if subject.url is None}:
            limit = read_source_config(Path(path)).get("max_position_embeddings", 2048)
            if needed > limit:
                raise ConfigError(
                    f"{answers.name} asks for {needed} tokens and {path} has a context of {limit}: {fix} the task with "
                    "--task"
                )


def tokenizer_directory(subject: Subject) -> Path | None:
    """None if it is not on this machine."""
    if not is_url(subject.source):
        return Path(subject.source)
    info = Client(subject.source).info()
    path = Path(info.get("tokenizer_path") or info["model_path"])
    return path if path.is_dir() else None


def progress_watcher(progress: Progress) -> Callable[[str, int], Callable[[], None]]:
    """Shows a bar for each measurement."""

    def watch(what: str, num_items: int) -> Callable[[], None]:
        task = progress.add_task(what, total=num_items)
        return lambda: progress.advance(task)

    return watch


def finish(results: Results, outputs: Outputs) -> None:
    console.print(terminal_table(results.data))
    drawn = [] if outputs.plots is None else draw(results.data, outputs.plots)
    print_written(console, (outputs.json, *drawn))
