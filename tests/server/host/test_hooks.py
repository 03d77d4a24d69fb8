"""Every declared change to SGLang: its target exists, takes what we expect, and is checked before serving."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from sglang.srt.plugins import load_plugins

from patches.drift import drift, installed_root, missing_imports, read_digests
from sglang_speed.errors import HostMismatch
from sglang_speed.features import HOOKS as FEATURE_HOOKS
from sglang_speed.guard.hooks import HOOKS as GUARD_HOOKS
from sglang_speed.host import check as host
from sglang_speed.host import versions
from sglang_speed.host.field import Field
from sglang_speed.host.hook import Hook
from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.platforms.cpu.hooks import HOOKS as CPU_HOOKS
from sglang_speed.platforms.cpu.memory import SORTS_SLOTS
from sglang_speed.platforms.cpu.speculation import SAMPLERS
from sglang_speed.serving.fields import FIELDS, SETTINGS
from sglang_speed.serving.hooks import HOOKS as SERVING_HOOKS
from tests import forked
from tests.host import IS_OLDEST

ALL_HOOKS = host.needed(SERVING_HOOKS + FEATURE_HOOKS + GUARD_HOOKS + CPU_HOOKS)
ALL_FIELDS = [*FIELDS, SORTS_SLOTS, *(() if IS_OLDEST else SAMPLERS)]


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    load_plugins()


@pytest.mark.parametrize("hook", ALL_HOOKS, ids=lambda hook: hook.target.removeprefix("sglang.srt."))
def test_a_hook_fits_the_pinned_host(hook: Hook) -> None:
    host.check_target(hook)


@pytest.mark.parametrize("hook", ALL_HOOKS, ids=lambda hook: hook.target.removeprefix("sglang.srt."))
def test_a_hook_says_why_it_is_needed_and_when_it_can_go(hook: Hook) -> None:
    assert len(hook.reason) > 10
    assert len(hook.remove_when) > 10


@pytest.mark.parametrize("field", ALL_FIELDS, ids=lambda field: f"{field.owner.rpartition('.')[2]}.{field.name}")
def test_a_field_fits_the_pinned_host(field: Field) -> None:
    field.check()
    wrong = dataclasses.replace(field, is_new=not field.is_new)
    if versions.installed_version() not in field.versions:
        wrong.check()  # it is not looked at
        return
    with pytest.raises(HostMismatch, match=field.name):
        wrong.check()


def test_changed_functions_are_those_that_the_changes_were_written_for() -> None:
    """`python patches/drift.py` says what differs; `--write` notes it when each hook was looked at."""
    noted = read_digests()[versions.installed_version()]
    assert list(drift(installed_root(), noted)) == []
    assert set(noted) == {hook.target for hook in ALL_HOOKS}
    assert list(missing_imports(installed_root())) == []


def test_a_process_whose_arguments_were_resolved_without_the_plugin_serves_nothing() -> None:
    with pytest.raises(HostMismatch, match="resolved its arguments without this package"):
        host.require_ran(SimpleNamespace(), SETTINGS)


def test_no_target_is_hooked_twice() -> None:
    targets = [hook.target for hook in ALL_HOOKS]
    assert len(set(targets)) == len(targets)


def test_all_hooks_are_in_place_after_sglang_loaded_its_plugins() -> None:
    host.require_host("serving")


def test_a_target_with_other_parameters_is_a_host_mismatch() -> None:
    changed = dataclasses.replace(ALL_HOOKS[0], parameters=("self", "more"))
    with pytest.raises(HostMismatch, match=r"takes \('self',.*\), expected \('self', 'more'\)"):
        host.check_target(changed)


def test_a_target_that_is_gone_is_a_host_mismatch() -> None:
    gone = dataclasses.replace(ALL_HOOKS[0], target="sglang.srt.server_args.ServerArgs.gone")
    with pytest.raises(HostMismatch, match=r"ServerArgs\.gone is not in this SGLang"):
        host.check_target(gone)


def test_a_hook_that_was_not_installed_stops_the_model() -> None:
    absent = dataclasses.replace(ALL_HOOKS[0], function=lambda args: None)
    with pytest.raises(HostMismatch, match=rf"1 of its .* not in place: {absent.target}"):
        host.require_in_place((*host.needed(SERVING_HOOKS), absent))


def test_a_module_that_still_calls_the_unhooked_function_stops_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.managers import schedule_batch

    unhooked = schedule_batch.alloc_for_decode.__wrapped__
    monkeypatch.setattr(schedule_batch, "alloc_for_decode", unhooked)
    with pytest.raises(HostMismatch, match="alloc_for_decode"):
        host.require_host("serving")


def test_another_version_of_sglang_is_a_host_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: "0.5.18")
    with pytest.raises(HostMismatch, match=r"0\.5\.18 is installed: install sglang==0\.5\.23"):
        host.require_host("serving")


PLAIN_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
MISMATCHES = {
    "another version": "versions.installed_version = lambda: '0.5.18'",
    "a hook that does not fit": "hooks.HOOKS += (dataclasses.replace(hooks.HOOKS[0], target='os.x', parameters=()),)",
    "a module that is gone": "sys.modules['sglang_speed.serving.memory'] = None",
}


@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_where_the_plugin_does_not_fit_only_speed_models_are_refused(mismatch: str, tmp_path: Path) -> None:
    """Nothing of SGLang is changed then, but what the CPU platform needs, where that is the platform."""
    llama = ARCHITECTURES["llama"]
    names = {"model_type": llama.speed_model_type, "architectures": [llama.speed_name]}
    speed = {**names, "speed": {"prefill_layers": 1}}
    for name, config in (("plain", PLAIN_CONFIG), ("speed", PLAIN_CONFIG | speed)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    program = textwrap.dedent(f"""
        import dataclasses, sys
        from sglang_speed.host import versions
        {"from sglang_speed.serving import hooks" if "hooks." in MISMATCHES[mismatch] else ""}
        {MISMATCHES[mismatch]}
        from sglang.srt.plugins import load_plugins
        from sglang.srt.plugins.hook_registry import HookRegistry
        load_plugins()
        modules = {{hook.__module__ for hooks in HookRegistry._hooks.values() for _, hook, _ in hooks}}
        print({{name for name in modules if name.startswith("sglang_speed.serving")}})
        from transformers import AutoConfig
        print(AutoConfig.from_pretrained({str(tmp_path / "plain")!r}).model_type)
        AutoConfig.from_pretrained({str(tmp_path / "speed")!r})
    """)
    (tmp_path / "program.py").write_text(program)
    ended = forked.run(tmp_path / "program.py")
    assert ended.stdout.split() == ["set()", "llama"], ended.stdout + ended.stderr
    assert "SPEED models are refused" in ended.stderr
    assert "HostMismatch: sglang_speed" in ended.stderr
