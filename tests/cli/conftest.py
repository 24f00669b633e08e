"""Bases and pictures for the commands that tune."""

from __future__ import annotations

from tests.tune.conftest import bert, captioned, words_base  # noqa: F401
