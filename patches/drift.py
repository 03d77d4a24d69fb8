"""What another SGLang would break: functions that this package changes and are others now, names that it imports and
are gone.

    python patches/drift.py                    # the installed SGLang
    python patches/drift.py --newest           # the newest wheel of the index, downloaded and not installed
    python patches/drift.py --write            # note the installed one in digests.json, when all hooks were looked at

Functions are compared as syntax trees, so comments and formatting do not count. Prints what differs, and exits
with 1 if anything does.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

DIGESTS = Path(__file__).with_name("digests.json")
"""By version of SGLang, then by target: a digest of the function, and the names of its parameters."""
PACKAGE = Path(__file__).parents[1] / "sglang_speed"


@dataclass(frozen=True)
class Found:
    """A function of SGLang's. digest: of its source, comments left out. parameters: their names in order."""

    digest: str
    parameters: tuple[str, ...]


def targets(installed: str) -> list[str]:
    """Dotted paths of all functions that this package changes in a version."""
    from sglang_speed import features
    from sglang_speed.guard.hooks import HOOKS as GUARD
    from sglang_speed.platforms.cpu.hooks import HOOKS as CPU
    from sglang_speed.serving.hooks import HOOKS as SERVING

    hooks = (*SERVING, *features.HOOKS, *GUARD, *CPU)
    return sorted(hook.target for hook in hooks if hook.parameters_in(installed) is not None)


def locate(root: Path, target: str) -> tuple[Path, list[str]]:
    """The file of the module at the beginning of a dotted path, and the names that follow.

    root: the folder `sglang`.
    """
    names = target.split(".")[1:]
    path = root
    while names and (path / names[0]).is_dir():
        path /= names.pop(0)
    if names and (path / f"{names[0]}.py").is_file():
        return path / f"{names.pop(0)}.py", names
    return path / "__init__.py", names


def find(root: Path, target: str) -> Found | None:
    """The function at a dotted path in the package whose folder is `root`; None where there is none."""
    module, names = locate(root, target)
    if not module.is_file():
        return None
    node: ast.AST = ast.parse(module.read_text(encoding="utf-8"))
    for name in names:
        bodies = [each for each in ast.iter_child_nodes(node) if getattr(each, "name", None) == name]
        if not bodies:
            return None
        node = bodies[-1]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    more = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    digest = hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:16]
    return Found(digest, tuple(each.arg for each in (*named, *more)))


def drift(root: Path, written: Mapping[str, str]) -> Iterator[str]:
    """What differs from the functions whose digests are `written`, by target."""
    for target, digest in sorted(written.items()):
        found = find(root, target)
        if found is None:
            yield f"{target} is gone"
        elif found.digest != digest:
            yield f"{target}({', '.join(found.parameters)}) is another function now"


def missing_imports(root: Path) -> Iterator[str]:
    """What this package imports of SGLang, adapters of versions aside, and is not there."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("v0_")]
    imports = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    wanted = {
        f"{node.module}.{alias.name}"
        for node in imports
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sglang.")
        for alias in node.names
    }
    for name in sorted(wanted):
        module, rest = locate(root, name)
        bound = _bound_in(module) if module.is_file() and rest else set()
        if not module.is_file() or (rest and not bound & {rest[0], "*"}):
            yield f"{name} is gone"


def _bound_in(module: Path) -> set[str]:
    """Names that a module may have: whatever is defined, assigned or imported in it; "*" for all of another."""
    bound: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return bound


def installed_root() -> Path:
    spec = importlib.util.find_spec("sglang")
    assert spec is not None, "sglang is not installed"
    return Path(next(iter(spec.submodule_search_locations or ())))


def download_newest(folder: Path) -> tuple[str, Path]:
    """Version and unpacked `sglang` folder of the newest wheel of pip's index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "-d", str(folder), "sglang"], check=True)
    (wheel,) = folder.glob("sglang-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return wheel.name.split("-")[1], folder / "sglang"


def read_digests() -> dict[str, dict[str, str]]:
    digests: dict[str, dict[str, str]] = json.loads(DIGESTS.read_text(encoding="utf-8")) if DIGESTS.is_file() else {}
    return digests


def write() -> str:
    """Note the functions of the installed version."""
    installed, root = version("sglang"), installed_root()
    found = {target: find(root, target) for target in targets(installed)}
    missing = [target for target, function in found.items() if function is None]
    assert not missing, f"not in the installed SGLang: {missing}"
    noted = {target: function.digest for target, function in found.items() if function is not None}
    DIGESTS.write_text(json.dumps({**read_digests(), installed: noted}, indent=2, sort_keys=True) + "\n")
    return f"{len(noted)} functions of {installed} noted in {DIGESTS.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", action="store_true", help="compare the newest wheel of the index")
    parser.add_argument("--write", action="store_true", help="note the installed version")
    options = parser.parse_args()
    if options.write:
        print(write())
        return 0
    digests = read_digests()
    newest = max(digests, key=lambda each: tuple(map(int, each.split("."))))
    with tempfile.TemporaryDirectory() as folder:
        found, root = download_newest(Path(folder)) if options.newest else (version("sglang"), installed_root())
        noted = found if found in digests else newest
        differences = list(drift(root, digests[noted]))
        gone = list(missing_imports(root))
    print(f"SGLang {found}, compared with {noted}: ", end="")
    print(f"{len(differences)} of {len(digests[noted])} changed functions differ, {len(gone)} imported names are gone")
    print("\n".join(f"  {line}" for line in differences + gone))
    return int(bool(differences + gone))


if __name__ == "__main__":
    sys.exit(main())
