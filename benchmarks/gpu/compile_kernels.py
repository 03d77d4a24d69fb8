"""Compile in advance the kernels that SGLang and FlashInfer compile at first use on sm_90, with or without a GPU.

python benchmarks/gpu/compile_kernels.py --work build/kernels --out build/kernels.tar.xz
python benchmarks/gpu/bundle.py ... --extra build/kernels.tar.xz

Needs nvcc 13.0, ninja and an environment with SGLang. A module's name depends on its sources, so modules of other
sources or shapes are compiled again on the GPU machine, which takes minutes there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from install import toolkit_variables


@dataclass(frozen=True)
class Variant:
    """An attention shape to compile for. kv_dtype: of the KV cache, if different."""

    dtype: str
    head_dim: int
    kv_heads: tuple[int, ...]
    kv_dtype: str | None = None

    @property
    def row_bytes(self) -> tuple[int, ...]:
        """Bytes of a token's keys in one layer, on one rank."""
        return tuple(heads * self.head_dim * (1 if self.kv_dtype else 2) for heads in self.kv_heads)


VARIANTS = (
    Variant("bfloat16", 128, (8, 4, 1)),  # the benchmark, and most of tests/gpu
    Variant("bfloat16", 64, (2,)),
    Variant("float16", 128, (2,)),
    Variant("float16", 128, (2,), "float8_e4m3fn"),
    Variant("float16", 128, (2,), "float8_e5m2"),
)


def compile_all(
    work: Annotated[Path, typer.Option(help="Folder of compiled modules; a second run continues.")],
    out: Annotated[Path | None, typer.Option(help="Archive of `work` to write, for bundle.py.")] = None,
    jobs: Annotated[int, typer.Option(help="Modules at a time; MAX_JOBS: files at a time within one.")] = 1,
    variants: Annotated[int, typer.Option(help="Number of VARIANTS, the benchmark's first; 0: only pack.")] = len(
        VARIANTS
    ),
) -> None:
    """Compile missing modules."""
    work = work.resolve()
    os.environ |= toolkit_variables(work)
    os.environ |= {"FLASHINFER_WORKSPACE_BASE": str(work), "TVM_FFI_CACHE_DIR": str(work / "tvm-ffi")}
    with tempfile.TemporaryDirectory() as directory:
        if variants and not has_driver():
            stand_in_driver(Path(directory))
            name_the_target()
        tasks = list(modules(VARIANTS[:variants])) if variants else []
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_timed, tasks))
    if out is not None:
        pack(work, out)


def pack(work: Path, out: Path) -> None:
    """Pack compiled modules under the names that an installed bundle expects."""
    with tarfile.open(out, "w:xz", preset=9) as tar:
        for library in sorted(work.glob("tvm-ffi/sgl_kernel_jit_*/*.so")):
            tar.add(library, f"jit/tvm-ffi/{library.parent.name}/{library.name}")
        for library in sorted(work.glob(".cache/flashinfer/*/*/cached_ops/*/*.so")):
            if library.stem == library.parent.name:
                tar.add(library, f"flashinfer/data/aot/{library.stem}/{library.name}")
    print(f"{out.stat().st_size / 2**20:.2f} MiB  {out}")


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def stand_in_driver(directory: Path) -> None:
    """Make a stub libcuda for linking and loading without a driver; it is never called."""
    spec = importlib.util.find_spec("sgl_kernel")
    assert spec is not None, "sgl_kernel is not installed"
    names = {"cuInit"}
    for library in Path(next(iter(spec.submodule_search_locations or []))).rglob("*.so"):
        listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True).stdout
        names |= {word for word in listed.split() if word[:2] == "cu" and word[2:3].isupper()}
    source, library = directory / "cuda.c", directory / "libcuda.so"
    source.write_text("".join(f"int {name}(void){{return 100;}}\n" for name in sorted(names)), encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    os.environ["LIBRARY_PATH"] = f"{directory}:{os.environ.get('LIBRARY_PATH', '')}"


def name_the_target() -> None:
    """Answer SGLang's queries of the device for which it compiles, since there is none."""
    import torch

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: SimpleNamespace(major=9, minor=0, multi_processor_count=132),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)


def modules(variants: tuple[Variant, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and compile function of each module that is not bundled; FlashInfer's are slow and come first."""
    for spec in flashinfer_modules(variants):
        if not spec.is_aot:
            yield spec.name, lambda spec=spec: spec.build(False)
    yield from sglang_modules(variants)


def sglang_modules(variants: tuple[Variant, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """SGLang's JIT kernels for a Llama."""
    import torch
    from sglang.kernels.ops.activation.activation import activation_module
    from sglang.kernels.ops.attention.clamp_position import _jit_clamp_position_module
    from sglang.kernels.ops.attention.rope import _jit_fused_rope_module
    from sglang.kernels.ops.kvcache.kvcache import _jit_kvcache_module

    for index in (torch.int32, torch.int64):
        yield f"clamp_position {index}", lambda index=index: _jit_clamp_position_module(index)
    for dtype in dict.fromkeys(getattr(torch, variant.dtype) for variant in variants):
        yield f"activation {dtype}", lambda dtype=dtype: activation_module(dtype)
    for dtype, dim in dict.fromkeys((getattr(torch, variant.dtype), variant.head_dim) for variant in variants):
        yield f"rope {dtype} {dim}", lambda dtype=dtype, dim=dim: _jit_fused_rope_module(True, dim, dtype, dtype)
    for size in sorted({size for variant in variants for size in variant.row_bytes}):
        yield f"kvcache {size}", lambda size=size: _jit_kvcache_module(size, size)


def flashinfer_modules(variants: tuple[Variant, ...]) -> Iterator[Any]:
    """Norms, paged and ragged prefill (on this chip FlashInfer's "auto" is its FA3 template), decode.

    Only the FA2 template reads an fp8 KV cache, also in decode: SGLang then decodes on tensor cores.
    """
    import torch
    from flashinfer.jit import norm
    from flashinfer.jit.attention import modules

    yield norm.gen_norm_module()
    for variant in variants:
        dtype, dim = getattr(torch, variant.dtype), variant.head_dim
        kv_dtype = getattr(torch, variant.kv_dtype or variant.dtype)
        types = (dtype, kv_dtype, dtype, torch.int32, dim, dim, 0, False, False)
        if not variant.kv_dtype:
            yield modules.gen_batch_decode_module(*types)
        for template in ("fa2",) if variant.kv_dtype else ("fa2", "fa3"):
            yield modules.gen_batch_prefill_module(template, *types, False)


def _timed(task: tuple[str, Callable[[], Any]]) -> None:
    name, compile_module = task
    start = time.monotonic()
    compile_module()
    print(f"{time.monotonic() - start:7.1f} s  {name}", flush=True)


if __name__ == "__main__":
    typer.run(compile_all)
