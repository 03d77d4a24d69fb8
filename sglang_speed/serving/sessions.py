"""Streaming sessions: the row of a conversation is kept between its turns, its deep rows are not.

What was generated in one turn is prompt in the next, so the next turn has other deep tokens: it is admitted to the deep
bands like any request, and takes no more of the row than a prefix hit might.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.request_pool import banded
from sglang_speed.serving.fields import NAMESPACE_OF_SESSION


def rest_between_turns(original: Callable[..., bool], sessions: Any, req: Any) -> bool:
    """Hook around StreamingSession.try_cache_finished_req, which lets a session keep the row of a turn that has ended,
    or was retracted; otherwise the row is freed like any other."""
    pool, slot = banded(sessions.cache.req_to_token_pool), sessions.borrowed_slot(req)
    if pool is None or slot is None:
        return original(sessions, req)
    row, end = HOST.row_of(req), pool.context_end_of(req)
    is_kept = original(sessions, req)
    if is_kept:
        assert row is not None, f"turn {req.rid} ran without a row"
        pool.rest(row)
        NAMESPACE_OF_SESSION.set(slot, HOST.namespace_of(req))
        # the last token has not run yet, though where drafts are verified it has a place already; and what stands
        # behind a thinned context depends on this turn
        known = len(req.origin_input_ids) + len(req.output_ids) - 1
        slot.kv.kv_committed_len = min(slot.kv.kv_committed_len, known if end is None else min(known, end))
    return is_kept


def reuse_within_deep_bands(original: Callable[..., Any], sessions: Any, params: Any) -> Any:
    """Hook around StreamingSession.try_match_prefix: a session that kept more than the turn may reuse gives it back.

    `params.key` ends where reuse must end (`admission.limit_reuse`). What stands behind that in the row is computed
    again; where that reaches into what the tree owns, and where the turn has another adapter than the one before it,
    the turn begins with what it finds in the tree instead.
    """
    pool, slot = banded(sessions.cache.req_to_token_pool), sessions.find_active_slot(params.req)
    if pool is None or slot is None:
        return original(sessions, params)
    namespace = HOST.namespace_of(params.req)
    is_of_another = NAMESPACE_OF_SESSION.get(slot, namespace) != namespace
    if is_of_another or min(slot.kv.kv_committed_len, len(params.key)) < max(1, slot.kv.cache_protected_len):
        if params.req.kv is slot.kv:  # borrowed in an earlier pass, in which the turn did not start
            params.req.detach_kv()
        sessions.release_session(params.req.session.session_id)
    return original(sessions, params)
