"""What of a request whose context is thinned may enter the prefix cache: the context alone.

What stands behind it depends on what the request itself could see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_speed.kv_pool.request_pool import banded


def keep_contexts_only(original: Callable[..., Any], tree: Any, req: Any, *, up_to: int, **kwargs: Any) -> Any:
    """Hook around the trees' `checkpoint`, which keep a request's tokens as far as `up_to`."""
    pool = banded(tree.req_to_token_pool)
    end = None if pool is None else pool.context_end_of(req)
    return original(tree, req, up_to=up_to if end is None else min(up_to, end), **kwargs)
