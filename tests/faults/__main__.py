"""Plant them all: `python -m tests.faults [WORD ...]`."""

from __future__ import annotations

import sys

from tests.faults import FAULTS, caught


def main(words: list[str]) -> int:
    """Plant each fault whose name holds one of the words (all without any); the number that went unnoticed."""
    missed = 0
    for fault in FAULTS:
        if words and not any(word in fault.name for word in words):
            continue
        found = caught(fault)
        missed += not found
        print(f"{'caught' if found else 'MISSED'}  {fault.name}  ({fault.test})", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
