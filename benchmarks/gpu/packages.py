"""The content of the bundle: SGLang, its kernels for sm_90, and Python packages, in versions tested with this SGLang.

The machine has torch 2.11 for CUDA 13, Triton, nvcc, ninja and the dependencies of torch and transformers.
"""

from __future__ import annotations

PYTHON_VERSION = "3.12"
GLIBC_MINORS = (5, 12, 17, 24, 26, 27, 28, 31, 34)

Archive = dict[str, tuple[str, ...]]
"""Requirement -> paths inside its wheel to leave out."""

ARCHIVES: dict[str, Archive] = {
    "sglang": {
        "sglang==0.5.17": (
            "sglang/multimodal_gen/*",
            "sglang/test/*",
            "sglang/eval/*",
            "sglang/srt/server/*",
            "*/_core.cpython-*.so",  # optional servers written in Rust
            "tools/*",
            "*/README.md",
        ),
    },
    # sm_90 only, and without FA3: it alone is larger than everything else together
    "sgl_kernel": {
        "sglang-kernel==0.4.5": ("*/sm100/*", "*/flash_ops*.so", "*/flashmla_ops*.so", "*/infllm_ops*.so"),
    },
    "flashinfer": {
        "flashinfer-python==0.6.15.post1": (
            "build_*.py",
            "flashinfer/data/build_*.py",
            "flashinfer/data/cutlass/python/*",
        ),
    },
    # SGLang's pin, and the newest tokenizers that it allows
    "transformers": {"transformers==5.12.1": (), "tokenizers==0.22.2": ()},
    "others": {
        "annotated-types==0.8.0": (),
        "apache-tvm-ffi==0.1.11": (),
        "compressed-tensors==0.20.0": (),
        "decorator==5.3.1": (),
        "dill==0.4.1": (),
        "gguf==0.19.0": (),
        "ipython==9.18.1": (),
        "loguru==0.7.3": (),
        "msgspec==0.22.0": (),
        "openai==2.6.1": (),
        "distro==1.9.0": (),
        "jiter==0.19.0": (),
        "sniffio==1.3.1": (),
        "orjson==3.13.0": (),
        "partial-json-parser==0.2.1.1.post7": (),
        "pybase64==1.5.1": (),
        "pydantic==2.14.3": (),
        "pydantic-core==2.50.4": (),
        "pyzmq==27.3.0": (),
        "setproctitle==1.3.8": (),
        "traitlets==5.16.1": (),
        "typing-inspection==0.4.5": (),
        "xgrammar==0.2.1": ("xgrammar/lib/*",),
        # the HTTP server: the engine imports parts of it
        "fastapi==0.165.0": (),
        "starlette==1.10.0": (),
        "opentelemetry-api==1.45.2": (),
        "uvicorn==0.54.0": (),
        "watchfiles==1.3.0": (),
        "python-multipart==0.0.34": (),
        "jsonschema==4.26.0": (),
        "jsonschema-specifications==2025.9.1": (),
        "referencing==0.37.0": (),
        "rpds-py==2026.9.1": (),
    },
}

# RECORD stays: xgrammar finds its library by it
NEVER_NEEDED = ("bin/*", "share/*", "*.data/*", "*.pyc")
