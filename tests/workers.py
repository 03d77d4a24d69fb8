"""Which tests go together, and which first, where pytest has several workers (`-n 2`).

Decides only how long a run takes: a module in no list or in the wrong one costs another start of a server at worst.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

SERVER, MODEL = "the shared server", "the default model"
TOGETHER = {
    "tests/server/agents": SERVER,
    "tests/server/deploy": SERVER,
    "tests/server/e2e": SERVER,
    "tests/server/examples": SERVER,
    "tests/server/checkpoints": MODEL,
}
ALONE = (
    "tests/server/e2e/test_refused_settings.py",
    "tests/server/e2e/test_refused_starts.py",
    "tests/server/e2e/test_several_ranks.py",
)
LONGEST_FIRST = (
    SERVER,
    "tests/server/e2e/test_refused_starts.py",
    "tests/server/kills/test_a_killed_server.py",
    "tests/server/storm/test_storm.py",
    "tests/inprocess/parity/test_stateful_scheduler.py",
    "tests/server/platforms/test_cpu_server.py",
    "tests/inprocess/parity/test_gpu_backends.py",
    "tests/inprocess/parity/test_retraction_is_exact.py",
    "tests/server/evaluation/test_side_by_side.py",
)
"""What would keep one worker busy when the others are done."""


def group_of(nodeid: str) -> str:
    """A folder whose modules share a fixture that takes long to make, or a module; one worker runs all its tests. On a
    GPU every test is its own, since each starts a scheduler."""
    module = nodeid.partition("::")[0]
    if module.startswith("tests/gpu/"):
        return nodeid
    return module if module in ALONE else TOGETHER.get(module.rpartition("/")[0], module)


def turn_of(nodeid: str) -> int:
    """A key to sort tests by: the longest groups first, the others as they were."""
    group = group_of(nodeid)
    return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)


class OneWorkerPerGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
