"""What happened to requests in each band since the server started.

Owns the counts and nothing else; who sees an event adds it. A flush resets nothing. A request that comes back after a
retraction counts once, so that its own recomputed prefix never looks like reuse.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """Counts by band. In the shallow band the cache is the radix tree, in the deep band it is the shared anchors.

    prompt_tokens: prompt tokens of the requests that started, as far as they pass the band.
    reused_tokens: those of them that came from the band's cache.
    retracted_requests: retractions because a decode step did not fit in the band; a request can count several times. A
    request that is preempted for another's priority, or sent back by a pause, does not count: the band was not short.
    aborted_requests: ended for the same reason, because no other request was left to retract.
    anchor_misses: requests whose anchors could be shared and were not there; they reuse nothing of the tree either.
    refused_requests: can never fit in the band. clipped_requests: may generate less than they asked for.
    """

    shallow_prompt_tokens: int = 0
    shallow_reused_tokens: int = 0
    shallow_evicted_tokens: int = 0
    shallow_retracted_requests: int = 0
    shallow_aborted_requests: int = 0
    deep_prompt_tokens: int = 0
    deep_reused_tokens: int = 0
    deep_anchor_misses: int = 0
    deep_retracted_requests: int = 0
    deep_aborted_requests: int = 0
    deep_refused_requests: int = 0
    deep_clipped_requests: int = 0
