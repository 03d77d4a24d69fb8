"""What happened to requests in each band since the server started.

Owns the counts and nothing else; who sees an event adds it. A flush resets nothing. A request that comes back after a
retraction counts once, so that its own recomputed prefix never looks like reuse.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BandCounters:
    """Counts of one band. In the shallow band the cache is the radix tree, in a deep band it is the shared anchors.

    prompt_tokens: prompt tokens that this band processes, of the requests that started.
    reused_tokens: those of them that came from the band's cache. evicted_tokens: given up by that cache.
    retracted_requests: retractions because a decode step did not fit in the band; a request can count several times. A
    request that is preempted for another's priority, or sent back by a pause, does not count: the band was not short.
    aborted_requests: ended for the same reason, because no other request was left to retract.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    evicted_tokens: int = 0
    retracted_requests: int = 0
    aborted_requests: int = 0


@dataclass
class DeepBandCounters(BandCounters):
    """And what only a deep band can do.

    selected_tokens: prompt tokens that scores chose, of the requests that started.
    filled_tokens: prompt tokens that are visible with KV that is filled in.
    anchor_misses: requests whose anchors could be shared and were not there, so that they computed their own.
    refused_requests: can never fit in the band. clipped_requests: may generate less than they asked for.
    """

    selected_tokens: int = 0
    filled_tokens: int = 0
    anchor_misses: int = 0
    refused_requests: int = 0
    clipped_requests: int = 0
