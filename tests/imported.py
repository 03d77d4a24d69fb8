"""What the process that `tests/forked.py` forks has imported."""

from __future__ import annotations

import gc
import os
import sys

import setproctitle

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

import sglang.srt.entrypoints.http_server
import sglang.srt.managers.detokenizer_manager
import sglang.srt.managers.scheduler  # noqa: F401

sys.excepthook = sys.__excepthook__  # one of the imports has set its own, before any plugin is loaded
setproctitle.getproctitle()  # its first call looks for where the environment lies, which must be untouched
gc.freeze()  # or the first collection would copy all of it into each process
