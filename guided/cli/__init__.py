"""The command line: `guided COMMAND`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 a failure, 2 bad usage or input, 130 interrupted."""
    from guided.cli.app import run

    return run(argv)
