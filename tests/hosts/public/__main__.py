"""`PYTHONPATH=tests/hosts python -m public [NAME ...]`: the table, of all cases or of those whose name or source fits."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import public
from public.judge import judge, table


def main(words: list[str]) -> None:
    verdicts, absent = [], []
    for module in sorted(m.name for m in pkgutil.iter_modules(public.__path__, "public.")):
        for case in getattr(importlib.import_module(module), "CASES", ()):
            if words and not any(w.lower() in f"{case.name} {case.source}".lower() for w in words):
                continue
            try:
                case.made()
            except public.NotHereError as reason:
                absent.append(f"{case.name}: {reason}")
                continue
            print(case.name, case.source, file=sys.stderr)
            verdicts.append(judge(case))
    print(table(verdicts))
    print("\n".join(["", *(f"not here: {line}" for line in absent)]))


main(sys.argv[1:])
