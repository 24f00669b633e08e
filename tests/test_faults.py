"""Each planted fault is noticed by the test that is named for it."""

from __future__ import annotations

import pytest

from tests.faults import FAULTS, ROOT, Fault, caught


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_the_line_a_fault_changes_still_stands(fault: Fault) -> None:
    assert fault.old in (ROOT / fault.file).read_text()


def test_there_are_at_least_20() -> None:
    assert len(FAULTS) >= 20 and len({f.name for f in FAULTS}) == len(FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_planted_fault_turns_its_test_red(fault: Fault) -> None:
    assert caught(fault)
