"""Every field that serving sets on SGLang's objects, in one list. What it changes in functions is in `hooks`."""

from __future__ import annotations

from sglang_speed.host.field import Field
from sglang_speed.host.versions import NEWEST

SETTINGS = Field(
    owner="sglang.srt.server_args.ServerArgs",
    name="_speed_settings",  # public names cannot be added where arguments are a sealed record
    is_new=True,
    reason="the arguments are the only thing that travels to every process of a server; it also tells a process that "
    "they were resolved with this package",
)
DEEP_PROMISED = Field(
    owner="sglang.srt.managers.schedule_policy.PrefillAdder",
    name="deep_promised",
    is_new=True,
    reason="deep slots promised in a scheduling pass must end with it, and an adder lives for one pass",
)
EXPORTER = Field(
    owner="sglang.srt.observability.metrics_collector.SchedulerMetricsCollector",
    name="speed_exporter",
    is_new=True,
    reason="Prometheus metrics may be made once for each collector, with its labels",
)
REQUEST_ROWS_OF_BATCH = Field(
    owner="sglang.srt.model_executor.forward_batch_info.ForwardBatch",
    name="model_specific_states",
    is_new=False,
    reason="a forward batch carries request rows on the device only, and the deep batch is planned on the CPU",
)
FIRST_VALUE_BUFFER = Field(
    owner="sglang.srt.mem_cache.memory_pool.KVCache",
    name="get_value_buffer",
    is_new=False,
    reason="in 0.5.17 TritonAttnBackend.__init__ asks layer 0 for the head dimension, wherever a pool starts; set by "
    "host.v0_5_17",
)
HOST_SLOTS = Field(
    owner="sglang.srt.mem_cache.memory_pool.KVCache",
    name="host_transfer_translate",
    is_new=False,
    reason="what is filled in for a slot of the main pool lies in the deep band's pool at another one",
    versions=(NEWEST,),
)
HOST_BYTES = Field(
    owner="sglang.srt.mem_cache.memory_pool.KVCache",
    name="host_capacity_bytes",
    is_new=False,
    reason="SGLang sizes host pools by the main pool, and what is filled in is copied with it",
    versions=(NEWEST,),
)
NAMESPACE_OF_SESSION = Field(
    owner="sglang.srt.session.streaming_session.SessionSlot",
    name="speed_namespace",
    is_new=True,
    reason="turns of a session may have several adapters, and SGLang goes on with what another one's has computed",
    versions=(NEWEST,),
)

FIELDS = (
    SETTINGS,
    DEEP_PROMISED,
    EXPORTER,
    REQUEST_ROWS_OF_BATCH,
    FIRST_VALUE_BUFFER,
    HOST_SLOTS,
    HOST_BYTES,
    NAMESPACE_OF_SESSION,
)

ADOPTED = {
    "sglang.srt.mem_cache.memory_pool.ReqToTokenPool": "SGLang builds the request table before anything of ours runs; "
    "kv_pool.request_pool takes over its fields under a class whose rows own deep slots",
}
"""Classes of SGLang of which an object becomes one of ours."""
