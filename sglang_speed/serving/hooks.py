"""Every change to SGLang that serving a SPEED model needs, in one list.

An entry says what is changed, why no registry or platform method does it, and when it can go. The plugin
installs the list, the model refuses to load unless all of it is in place, and a test resolves each target
against the pinned SGLang.
"""

from __future__ import annotations

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.host.hook import Hook, ResolutionHook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.serving import (
    admission,
    arguments,
    forward,
    memory,
    metrics,
    model,
    new_weights,
    observe,
    refused_start,
    sessions,
    stored_pages,
    thinned,
)
from sglang_speed.serving.refusals import refuse_unsupported

_MANAGERS = "sglang.srt.managers"
_NAME = "the name speed-llama stands for a checkpoint that is built on first use"
_FLAGS = "flags whose paths know one depth only must not be combined with a SPEED model"
_COMPONENTS = "sglang.srt.managers.scheduler_components"

START_UP_HOOKS = (
    Hook(
        target="sglang.srt.server_args.ServerArgs.__post_init__",
        parameters={OLDEST: ("self",)},
        kind=HookType.BEFORE,
        function=arguments.complete,
        reason=_NAME,
        remove_when="SGLang 0.5.17 is no longer supported",
    ),
    Hook(
        target="sglang.srt.server_args.ServerArgs.check_server_args",
        parameters={OLDEST: ("self",)},
        kind=HookType.AFTER,
        function=arguments.refuse_checked,
        reason=_FLAGS,
        remove_when="SGLang 0.5.17 is no longer supported",
    ),
)

RESOLUTION_HOOKS = (
    ResolutionHook("handle_deprecated_dp_attention", "before", arguments.complete, _NAME, versions=(NEWEST,)),
    ResolutionHook("validate_deepep_v2_dispatch_token_budget", "after", refuse_unsupported, _FLAGS, versions=(NEWEST,)),
)
"""On the first step and the last."""

REFUSAL_HOOKS = (
    Hook(
        target=f"{_MANAGERS}.scheduler.Scheduler.__init__",
        parameters={
            OLDEST: (
                "self",
                "server_args",
                "port_args",
                "gpu_id",
                "tp_rank",
                "moe_ep_rank",
                "pp_rank",
                "attn_cp_rank",
                "moe_dp_rank",
                "dp_rank",
            ),
            NEWEST: ("self", "server_args", "port_args"),
        },
        kind=HookType.AROUND,
        function=refused_start.exit_where_refused,
        reason="SGLang answers an exception there by killing its process group, which looks like a lack of memory",
        remove_when="SGLang tells errors of configuration from others",
    ),
    Hook(
        target="sglang.srt.entrypoints.engine._wait_for_scheduler_ready",
        parameters=("scheduler_pipe_readers", "scheduler_procs"),
        kind=HookType.AROUND,
        function=refused_start.end_where_refused,
        reason="what a scheduler process refuses is reported as the death of a process",
        remove_when="SGLang tells errors of configuration from others",
    ),
)

MODEL_HOOKS = (
    Hook(
        target="sglang.srt.utils.hf_transformers.config.get_config",
        parameters=("model", "trust_remote_code", "revision", "model_override_args", "model_config_parser", "kwargs"),
        kind=HookType.AROUND,
        function=model.read_config,
        reason="SGLang keys what it does on the stock model's type, architecture and configuration class",
        remove_when="SGLang lets a plugin read a configuration",
    ),
    Hook(
        target="sglang.srt.model_loader.loader._initialize_model",
        parameters=("model_config", "load_config", "quant_config"),
        kind=HookType.AFTER,
        function=model.run_model_in_bands,
        reason="any stock decoder runs in depth bands, so no model class of ours could stand for it",
        remove_when="SGLang lets a plugin wrap a model",
    ),
    Hook(
        target="sglang.srt.model_executor.model_runner_components.layer_setup.resolve_layer_indices",
        parameters={
            OLDEST: ("model", "model_config", "is_draft_worker", "spec_algorithm"),
            NEWEST: ("model", "model_config", "is_draft_worker", "draft_model_idx"),
        },
        kind=HookType.AFTER,
        function=model.keep_shallow_layers,
        reason="the main KV pool has fewer layers than the model, whose `end_layer` also says which weights it loads",
        remove_when="SGLang asks the model for the layers of its pool",
    ),
)

WEIGHT_HOOKS = (
    Hook(
        target=f"{_MANAGERS}.tokenizer_manager.TokenizerManager.update_weights_from_disk",
        parameters=("self", "obj", "request"),
        kind=HookType.AROUND,
        function=new_weights.refuse_other_bands,
        reason="new weights are loaded into the model as it runs, whatever their own configuration says",
        remove_when="SGLang compares the configuration of new weights with the running one",
    ),
    Hook(
        target="sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater"
        ".update_weights_from_tensor",
        parameters=("self", "named_tensors", "load_format"),
        kind=HookType.AROUND,
        function=new_weights.answer_refusal,
        reason="an exception there ends the scheduler, where the other ways of new weights answer it",
        remove_when="SGLang answers a tensor that the model refuses",
    ),
)

MEMORY_HOOKS = (
    Hook(
        target="sglang.srt.model_executor.pool_configurator.create_memory_pool_configurator",
        parameters=("kvc",),
        kind=HookType.AROUND,
        function=memory.split_budget,
        reason="the KV budget is shared by two pools",
        remove_when="SGLang has a registry of pool configurators",
    ),
    Hook(
        target="sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator._init_pools",
        parameters=("self", "sizes", "req_to_token_pool", "token_to_kv_pool_allocator"),
        kind=HookType.AFTER,
        function=memory.build_deep_bands,
        reason="the pools and tables of deep bands stand beside the main ones",
        remove_when="SGLang has a registry of request pools",
    ),
)

SCHEDULER_HOOKS = (
    Hook(
        target="sglang.srt.beam_search.coordinator.BeamCoordinator.validate_and_init",
        parameters={NEWEST: ("self", "req", "recv_req")},
        kind=HookType.AROUND,
        function=admission.refuse_beams,
        reason="members of a beam have rows without a request, so no deep slots",
        remove_when="SGLang lets a request pool validate requests",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_batch.Req._compute_max_prefix_len",
        parameters=("self", "input_len"),
        kind=HookType.AFTER,
        function=admission.limit_reuse,
        reason="a radix hit must end where the decode phase begins",
        remove_when="prefix caches can cap a match per request",
    ),
    Hook(
        target=f"{_MANAGERS}.scheduler.Scheduler._add_request_to_queue",
        parameters=("self", "req", "is_retracted"),
        kind=HookType.BEFORE,
        function=admission.fit_to_deep_bands,
        reason="a request that can never fit in the deep band must be refused before it waits",
        remove_when="SGLang lets a request pool validate requests",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_policy.PrefillAdder.add_one_req",
        parameters=("self", "req", "has_chunked_req", "truncation_align_size"),
        kind=HookType.AROUND,
        function=admission.add_within_deep_room,
        reason="the prefill budget counts one pool",
        remove_when="SGLang lets a request pool take part in the prefill budget",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_policy.PrefillAdder.add_chunked_req",
        parameters=("self", "req"),
        kind=HookType.AROUND,
        function=admission.keep_room_for_chunked,
        reason="a request in mid-prefill is not in the running batch, whose growth the budget counts, and its chunk "
        "must not take apart what belongs in one forward",
        remove_when="SGLang lets a request pool take part in the prefill budget",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_policy.PrefillAdder.preempt_to_schedule",
        parameters={OLDEST: ("self", "req", "server_args"), NEWEST: ("self", "req")},
        kind=HookType.AROUND,
        function=admission.preempt_within_deep_room,
        reason="victims are picked by the main pool alone",
        remove_when="SGLang lets a request pool take part in preemption",
    ),
    Hook(
        target=f"{_MANAGERS}.scheduler.Scheduler._get_new_batch_prefill_raw",
        parameters={OLDEST: ("self", "prefill_delayer_single_pass", "running_batch")},
        kind=HookType.AFTER,
        function=admission.queue_preempted_again,
        reason="SGLang forgets preempted requests when the one they made way for does not start after all",
        remove_when="SGLang 0.5.17 is no longer supported; later versions queue them again by themselves",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_batch.ScheduleBatch.check_decode_mem",
        parameters=("self", "selected_indices"),
        kind=HookType.AFTER,
        function=admission.check_deep_decode,
        reason="a decode step needs a slot in each band; without it requests are retracted",
        remove_when="SGLang lets a request pool take part in the decode check",
    ),
    *(
        Hook(
            target=f"sglang.srt.mem_cache.{tree}.checkpoint",
            parameters={NEWEST: parameters},
            kind=HookType.AROUND,
            function=thinned.keep_contexts_only,
            reason="KV of tokens that see a thinned context depends on the request and must not be shared",
            remove_when="SGLang lets a request say how far it may be cached",
        )
        for tree, parameters in (
            ("unified_radix_cache.UnifiedRadixCache", ("self", "req", "up_to", "kwargs")),
            ("radix_cache.RadixCache", ("self", "req", "up_to")),
        )
    ),
    Hook(
        target="sglang.srt.mem_cache.allocation.alloc_for_decode",
        parameters=("batch", "token_per_req"),
        kind=HookType.AFTER,
        function=admission.take_decode_slots,
        reason="each decode step takes a deep slot per request",
        remove_when="SGLang tells the request pool of decode steps",
    ),
)

_INIT_NEW = ("cls", "batch", "model_runner", "capture_hidden_mode", "return_hidden_states_before_norm")
_INIT_NEW_MORE = ("extend_position_info", "spec_mrope_positions", "kv_loc_plan", "write_cols")
_REPLAY = ("forward_batch", "buffers", "bs", "raw_bs", "num_tokens")
_REPLAY_MORE = ("seq_len_fill_value", "capture_forward_mode", "is_encoder_decoder")

FORWARD_HOOKS = (
    Hook(
        target="sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
        parameters={OLDEST: _INIT_NEW, NEWEST: (*_INIT_NEW, *_INIT_NEW_MORE)},
        kind=HookType.AFTER,
        function=forward.carry_request_rows,
        reason="the deep batch is planned on the CPU from request rows, which a forward batch has on the device only",
        remove_when="ForwardBatch carries req_pool_indices_cpu",
    ),
    Hook(
        target="sglang.srt.model_executor.runner.decode_cuda_graph_runner.build_replay_fb_view",
        parameters={
            OLDEST: (*_REPLAY, *_REPLAY_MORE),
            NEWEST: (*_REPLAY, "global_num_tokens_cpu", *_REPLAY_MORE),
        },
        kind=HookType.AFTER,
        function=forward.carry_rows_to_replay,
        reason="decode graphs are planned on a view of the batch that leaves out its model-specific states",
        remove_when="the view carries model_specific_states",
    ),
    Hook(
        target="sglang.srt.model_executor.model_runner_components.attention_backend_setup._build_resolved_backend",
        parameters=("model_runner", "resolved", "init_new_workspace"),
        kind=HookType.AROUND,
        function=forward.build_per_band,
        reason="each band has an attention backend of its own",
        remove_when="SGLang lets a model wrap its attention backend",
    ),
)

OBSERVER_HOOKS = (
    Hook(
        target=f"{_COMPONENTS}.pool_stats_observer.SchedulerPoolStatsObserver.get_pool_stats",
        parameters=("self",),
        kind=HookType.AFTER,
        function=observe.add_deep_stats,
        reason="log lines and usage must show both pools",
        remove_when="pool statistics are open to request pools",
    ),
    Hook(
        target=f"{_COMPONENTS}.invariant_checker.SchedulerInvariantChecker._check_req_pool",
        parameters=("self",),
        kind=HookType.AFTER,
        function=observe.check_when_idle,
        reason="the deep band is checked when SGLang, idle, checks its request table",
        remove_when="SGLang calls a check of the request pool",
    ),
    Hook(
        target=f"{_COMPONENTS}.invariant_checker.SchedulerInvariantChecker.self_check_during_busy",
        parameters=("self",),
        kind=HookType.AFTER,
        function=observe.check_when_busy,
        reason="SGLang's strict mode covers the deep band too",
        remove_when="SGLang calls a check of the request pool",
    ),
    Hook(
        target=f"{_MANAGERS}.scheduler.Scheduler.get_internal_state",
        parameters=("self", "recv_req"),
        kind=HookType.AFTER,
        function=metrics.report_speed_state,
        reason="/server_info shows what the model is and what the deep band holds",
        remove_when="SGLang lets plugins add to the internal state",
    ),
    Hook(
        target="sglang.srt.observability.metrics_collector.SchedulerMetricsCollector.log_stats",
        parameters=("self", "stats"),
        kind=HookType.AFTER,
        function=metrics.export_speed_state,
        reason="the same in Prometheus metrics, at SGLang's own rate",
        remove_when="SGLang lets plugins add scheduler metrics",
    ),
)

COUNTER_HOOKS = (
    Hook(
        target=f"{_MANAGERS}.schedule_batch.ScheduleBatch.retract_decode",
        parameters={OLDEST: ("self", "server_args"), NEWEST: ("self",)},
        kind=HookType.AROUND,
        function=metrics.count_retractions,
        reason="retractions are counted by the band that was short",
        remove_when="SGLang says why it retracts",
    ),
    Hook(
        target="sglang.srt.mem_cache.base_prefix_cache.BasePrefixCache.update_eviction_metrics",
        parameters=("self", "num_evicted", "start_time"),
        kind=HookType.AFTER,
        function=metrics.count_evictions,
        reason="SGLang counts evicted tokens only where metrics are enabled, and not in /server_info",
        remove_when="SGLang reports evicted tokens in its internal state",
    ),
)

_WEIGHT_UPDATER = f"{_COMPONENTS}.weight_updater.SchedulerWeightUpdaterManager"

STORE_HOOKS = (
    Hook(
        target=f"{_MANAGERS}.cache_controller.storage_model_name",
        parameters={NEWEST: ("model_name", "host_pool")},
        kind=HookType.AFTER,
        function=stored_pages.name_what_pages_hold,
        reason="keys of stored pages know neither the depth nor the weights",
        remove_when="SGLang keys stored pages on the model's configuration and weights",
    ),
    Hook(
        target="sglang.srt.mem_cache.hicache_storage.HiCacheFile.get",
        parameters={NEWEST: ("self", "key", "target_location", "target_sizes")},
        kind=HookType.AROUND,
        function=stored_pages.read_whole_page,
        reason="a longer file is read as far as a page goes, and a shorter one ends the thread that reads",
        remove_when="SGLang checks how long a stored page is",
    ),
    Hook(
        target=f"{_MANAGERS}.scheduler.Scheduler.attach_hicache_storage_wrapped",
        parameters={NEWEST: ("self", "recv_req")},
        kind=HookType.AROUND,
        function=stored_pages.attach_proven_store,
        reason="a store may be attached while serving, past what is refused at start-up",
        remove_when="SGLang checks a store that is attached like one of the command line",
    ),
    *(
        Hook(
            target=f"{_WEIGHT_UPDATER}.{way}",
            parameters={NEWEST: ("self", "recv_req")},
            kind=HookType.AROUND,
            function=stored_pages.keep_weights_of_store,
            reason="stored pages of other weights would be read",
            remove_when="SGLang keys stored pages on the weights",
        )
        for way in ("update_weights_from_disk", "update_weights_from_ipc", "begin_weight_update")
    ),
)

_SESSIONS = "sglang.srt.session.streaming_session.StreamingSession"

SESSION_HOOKS = (
    Hook(
        target=f"{_SESSIONS}.try_cache_finished_req",
        parameters={NEWEST: ("self", "req")},
        kind=HookType.AROUND,
        function=sessions.rest_between_turns,
        reason="a session keeps its row, whose deep slots would be those of another turn",
        remove_when="SGLang tells the request pool when a session keeps a row",
    ),
    Hook(
        target=f"{_SESSIONS}.try_match_prefix",
        parameters={NEWEST: ("self", "params")},
        kind=HookType.AROUND,
        function=sessions.reuse_within_deep_bands,
        reason="a session never reuses less than the tree owns of it, which a deep band may ask for",
        remove_when="sessions can cap what a turn reuses",
    ),
)

HOOKS = (
    START_UP_HOOKS
    + REFUSAL_HOOKS
    + MODEL_HOOKS
    + WEIGHT_HOOKS
    + MEMORY_HOOKS
    + SCHEDULER_HOOKS
    + SESSION_HOOKS
    + FORWARD_HOOKS
    + OBSERVER_HOOKS
    + COUNTER_HOOKS
    + STORE_HOOKS
)
