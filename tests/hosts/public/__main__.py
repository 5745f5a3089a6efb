"""`PYTHONPATH=tests/hosts python -m public [WORD ...]`: the table of all cases, or of those that a word fits."""

from __future__ import annotations

import sys

from public import NotHereError, all_cases
from public.judge import judge, table


def main(words: list[str]) -> None:
    """Judge the cases that the machine has, print the table, and name the rest."""
    verdicts, absent = [], []
    for file, case in all_cases():
        if words and not any(w == file or w.lower() in f"{case.name} {case.source}".lower() for w in words):
            continue
        try:
            case.made()
        except (NotHereError, ModuleNotFoundError) as reason:
            absent.append(f"{case.name}: {reason}")
            continue
        print(case.name, case.source, file=sys.stderr)
        verdicts.append(judge(case))
    print(table(verdicts))
    print("\n".join(["", *(f"not here: {line}" for line in absent)]))


if __name__ == "__main__":
    main(sys.argv[1:])
