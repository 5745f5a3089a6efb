"""`vdvae-patch scan PACKAGE.MODULE:FACTORY --input 2x3x32x32`: the Normal heads of a model that nobody described."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdvae_patch.errors import HostError, InvalidValueError, RunError, VdvaePatchError
from vdvae_patch.reading.fields import shown

ABOUT = "find the Normal heads of any model, and what is unsafe in it"

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vdvae_patch.scanning import ScanResult


def run(argv: Sequence[str]) -> int:
    """Run `scan` with its arguments; 0 if there are heads, 1 if there are none, or an error is raised."""
    options = _parser().parse_args(list(argv))
    import_from(options.path)
    if options.patch:
        from vdvae_patch.patching import Variant

        Variant.parse(options.patch)  # what cannot be meant is told before the model is built
    if not 0 <= options.seed <= _MOST_SEED:
        raise InvalidValueError(f"--seed must be from 0 to {_MOST_SEED:,}, not {shown(options.seed)}")
    factory = resolve(options.factory, options.path)
    call = resolve(options.call, options.path) if options.call else None
    model = build(factory, options.factory, options.seed)
    inputs = _tensors(options.input, options.seed)
    heads = _scan(model, inputs, call, options.input)
    if options.json:
        print(json.dumps(_record(heads), indent=2))
    else:
        _report(heads)
    if options.patch and heads:
        _try_patch(model, heads, options.patch, silent=options.json)
    if options.write and heads:
        from vdvae_patch.scanning.write import entry_file, is_left_out

        text = entry_file(options.factory, heads, model)
        _write(Path(options.write), text)
        print(
            f'wrote {options.write}; vdvae_patch.load_entry_file("{options.write}").heads(model) gives the heads to '
            "patch",
            file=sys.stderr,
        )
        if missing := [f"{head.path}[{head.channels}] ({head.role})" for head in heads if is_left_out(head)]:
            print(
                f"not in it: {', '.join(missing)}, whose σ is computed beside the model, in the call that was scanned, "
                "which no file holds; patch these by the heads of a scan",
                file=sys.stderr,
            )
    return 0 if heads else 1


def _write(file: Path, text: str) -> None:
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise RunError(f"{file} is there already, and may have been corrected by hand; name another file, or remove it")
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vdvae-patch scan", description="Find the Normal heads of a model, say what a patch would do, and warn."
    )
    parser.add_argument("factory", metavar="PACKAGE.MODULE:FACTORY", help="a class or function that makes the model")
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="2x3x32x32[:DTYPE]",
        help="shape of an input, drawn from N(0, 1), or zeros for an integer type; once for each input",
    )
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="FOLDER",
        help="where to import from, before the current folder; repeatable",
    )
    parser.add_argument("--call", metavar="PACKAGE.MODULE:LOSS", help="run LOSS(model, *inputs) instead of the model")
    parser.add_argument("--patch", metavar="VARIANT", help="patch with it and verify the sigma that is used")
    parser.add_argument("--write", metavar="FILE", help="write a patch file with what was found")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and inputs (default 0)")
    return parser


_MOST_VALUES = 2**40
_MOST_SEED = 2**63 - 1
"""As of `train`, whose seeds TOML's integers hold."""


def import_from(folders: Sequence[str]) -> None:
    """Let modules be imported from these folders and the current one, which a console script's path lacks."""
    for folder in reversed([*folders, "."]):
        sys.path.insert(0, str(Path(folder).expanduser().resolve()))


def resolve(spec: str, folders: Sequence[str]) -> Any:
    """What PACKAGE.MODULE:NAME names; raises `HostError` if it cannot be imported, or has no such name."""
    module_name, colon, attribute = spec.partition(":")
    if module_name.endswith(".py"):
        file = Path(module_name)
        where = "" if str(file.parent) == "." else f" --path {file.parent}"
        raise InvalidValueError(
            f"{spec!r} names a file, and a module is wanted, with what makes the model in it: "
            f"{file.stem}:{attribute or 'NAME'}{where}"
        )
    if not colon or not module_name or not attribute:
        raise InvalidValueError(f"{spec!r} is not of the form PACKAGE.MODULE:NAME, such as my_vae.model:VAE")
    tried = ", ".join([*folders, "the current folder", "the installed packages"])
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise HostError(
            f"cannot import {module_name!r}: {error} (tried {tried}); name its folder with --path"
        ) from error
    except SystemExit as error:  # argparse at the top of a file
        raise HostError(
            f"importing {module_name!r} ended the program (SystemExit: {error}): it runs as a script; put what it runs "
            'under if __name__ == "__main__":'
        ) from error
    except Exception as error:  # whatever a user's module raises while it runs
        raise HostError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            from vdvae_patch.errors import did_you_mean

            public = [n for n in vars(found) if not n.startswith("_")]
            raise HostError(f"{module_name!r} has no {name!r}{did_you_mean(name, public)}")
        found = getattr(found, name)
    return found


def build(factory: Any, spec: str, seed: int = 0) -> nn.Module:
    """The model that a factory makes, with the weights of a seed; raises `HostError`."""
    import torch

    torch.manual_seed(seed)
    try:
        model = factory() if callable(factory) else factory
    except Exception as error:  # the user's own factory
        advice = "" if _takes_no_arguments(factory) else "; give a factory without arguments"
        raise HostError(f"{spec}() failed: {type(error).__name__}: {error}{advice}") from error
    if not isinstance(model, torch.nn.Module):
        raise HostError(f"{spec}() gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _takes_no_arguments(factory: Any) -> bool:
    import inspect

    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError):
        return False
    return True


def _tensors(texts: Sequence[str], seed: int) -> list[Tensor]:
    """The inputs, drawn one after the other: two of one shape are not the same numbers."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return [_tensor(text, draw) for text in texts]


def _tensor(text: str, draw: torch.Generator) -> Tensor:
    import torch

    shape_text, _, dtype_name = text.partition(":")
    try:
        shape = [int(part) for part in shape_text.split("x")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1 or math.prod(shape) > _MOST_VALUES:
        shown = text if len(text) < 40 else f"{text[:40]}..."
        raise InvalidValueError(f"--input {shown!r} is not a shape such as 2x3x32x32, of at most 2^40 values")
    dtype = getattr(torch, dtype_name or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise InvalidValueError(f"--input {text!r}: torch has no dtype {dtype_name!r}; try float32 or int64")
    if not dtype.is_floating_point:
        try:
            torch.zeros(1, dtype=dtype)
        except (RuntimeError, NotImplementedError):
            raise InvalidValueError(
                f"--input {text!r}: torch fills no tensor of {dtype}; try float32 or int64"
            ) from None
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=draw).to(dtype)


def _scan(model: nn.Module, inputs: list[Tensor], call: Callable[..., Any] | None, shapes: list[str]) -> ScanResult:
    import warnings

    from vdvae_patch.scanning import scan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says is printed below
        try:
            return scan(model, *inputs, call=call)
        except VdvaePatchError:
            raise
        except Exception as error:  # the model's own
            name = type(model).__name__ if call is None else getattr(call, "__name__", "call")
            arguments = ", ".join((["model"] if call else []) + shapes)
            raise RunError(f"{name}({arguments}) failed: {type(error).__name__}: {error}") from error


def _report(heads: ScanResult) -> None:
    text = str(heads)
    print(text)
    if "call=" in text:  # as it is given in Python
        print(
            "  here: --call PACKAGE.MODULE:LOSS, a function that is called as LOSS(model, *inputs) and returns the loss"
        )
    if not heads:
        return
    print("\nwhat a patch does:")
    for head in heads:
        found = head.found
        if found is None:
            continue
        how = {
            "output": f"replaces the output of {head.path or 'the model'}",
            "call": f"replaces an expression on the way to the σ of {found.file}:{found.line}, because {found.reason}",
            "no": f"cannot patch it: {found.reason}; write a patch file (--write) and give its Head a CallSite",
        }[found.patch_at]
        print(f"  {head.named} {head.role}: {how}")


def _record(heads: ScanResult) -> dict[str, Any]:
    rows = []
    for head in heads:
        found = head.found
        row: dict[str, Any] = {
            "path": head.path,
            "parameter": head.parameter,
            "dim": head.dim,
            "start": head.start,
            "stop": head.stop,
            "step": head.step,
            "role": head.role,
            "convention": str(head.convention),
        }
        if found is not None:
            row |= {
                "confidence": found.confidence,
                "shape": list(found.shape),
                "file": found.file,
                "line": found.line,
                "patch_at": found.patch_at,
                "reason": found.reason,
                "evidence": list(found.evidence),
                "warnings": list(found.warnings),
            }
        rows.append(row)
    outcome, elbo = heads.outcome, heads.elbo
    term = elbo.reconstruction
    bound: dict[str, Any] = {"words": elbo.words(), "found": bool(elbo), "notes": list(elbo.notes)}
    bound |= {"sigma": elbo.sigma, "grey_levels": elbo.grey_levels, "beta": elbo.beta}
    bound |= {"optimal_sigma": elbo.optimal_sigma, "kl_factor": elbo.kl_factor, "reconstruction": None}
    if term is not None:
        bound["reconstruction"] = dataclasses.asdict(term)
    return {
        "heads": rows,
        "near_misses": [str(miss) for miss in heads.near_misses],
        "warnings": list(heads.warnings),
        "outcome": {"finite": outcome.finite, "loss": outcome.headline, "causes": list(outcome.causes)},
        "elbo": bound,
    }


def _try_patch(model: nn.Module, heads: ScanResult, variant: str, *, silent: bool) -> None:
    from vdvae_patch.patching import patch

    handle = patch(model, variant, heads=heads)
    if not silent:
        print(f"\npatched as {handle.variant}, and the sigma that the model then uses was compared with it:\n{handle}")
