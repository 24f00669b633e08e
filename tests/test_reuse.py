"""What a run has worked out is found once, for these very objects, in this run and in this thread alone."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from guided import path, reuse
from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.guide import cfg
from guided.ode import integrate
from guided.sampling import sample, trajectory
from tests.nn.tools import TEXT, awake, inputs


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


def test_it_is_found_once_in_a_run_and_every_time_outside() -> None:
    work, thing, other = Counter(), [1], [1]
    assert [reuse.once("a", (thing,), work) for _ in range(2)] == [1, 2]
    with reuse.running():
        assert [reuse.once("a", (thing,), work) for _ in range(3)] == [3, 3, 3]
        assert reuse.once("b", (thing,), work) == 4, "another kind"
        assert reuse.once("a", (other,), work) == 5, "an equal object is not the same one"
        with reuse.running():
            assert reuse.once("a", (thing,), work) == 3, "a run within a run is that run"
        with reuse.within(None):
            assert reuse.once("a", (thing,), work) == 6
    with reuse.running():
        assert reuse.once("a", (thing,), work) == 7, "a new run knows nothing"
    assert reuse.current() is None


def test_objects_stay_alive_so_that_no_new_one_takes_their_place() -> None:
    with reuse.running():
        found = {reuse.once("a", (object(),), Counter()) for _ in range(5)}
        seen = [reuse.once("a", (thing,), lambda thing=thing: id(thing)) for thing in (object() for _ in range(50))]
    assert found == {1} and len(set(seen)) == 50


def test_results_of_conditions_are_few_and_those_of_weights_are_kept() -> None:
    run = reuse.Run()
    things = [object() for _ in range(3 * reuse.RECENT)]
    with reuse.within(run):
        for thing in things:
            reuse.once("a", (thing,), Counter())
            reuse.once("w", (thing,), Counter(), lasting=True)
        work = Counter()
        assert reuse.once("w", (things[0],), work, lasting=True) == 1 and work.calls == 0
        assert reuse.once("a", (things[0],), work) == 1 and work.calls == 1
    assert len(run.recent) <= reuse.RECENT and len(run.lasting) == len(things)


def test_no_result_hangs_on_a_graph() -> None:
    weight = torch.ones(2, requires_grad=True)
    with reuse.running():
        assert not reuse.once("a", (weight,), lambda: 2 * weight).requires_grad
    assert reuse.once("a", (weight,), lambda: 2 * weight).requires_grad


def test_threads_have_runs_of_their_own() -> None:
    found = []
    with reuse.running():
        thread = threading.Thread(target=lambda: found.append(reuse.current()))
        thread.start()
        thread.join()
        assert reuse.current() is not None
    assert found == [None]


def counted(network: torch.nn.Module, name: str) -> list[int]:
    """How many rows went through a layer of the network at each call."""
    rows: list[int] = []
    network.get_submodule(name).register_forward_hook(lambda module, given, found: rows.append(len(given[0])))
    return rows


@torch.no_grad()
def test_a_run_projects_its_text_once_and_shares_what_stands_before_it() -> None:
    network = awake(TEXT)
    names = [name for name, module in network.named_modules() if name.endswith("cross_attention.kv")]
    texts = [counted(network, name) for name in names]
    first, last = counted(network, "conv_in"), counted(network, "conv_out")
    x, _, cond = inputs(TEXT, batch=2)
    cond = Cond(tokens=cond.tokens, mask=cond.mask)
    denoise = cfg(3.0)(Denoiser(network, EDM()))
    levels = path.karras(5, 0.1, 10.0)
    sample(denoise, x, levels, cond)
    assert names and all(rows == [4] for rows in texts)
    assert first == [2] * 5 and last == [4] * 5
    # Levels of the text attention itself are still two a picture; without a run text is projected at each call.
    denoise(x, levels[0], cond)
    denoise(x, levels[1], cond)
    assert all(rows == [4] * 3 for rows in texts)
    integrate(denoise, x, levels, cond, "euler")
    assert all(rows == [4] * 4 for rows in texts)


@torch.no_grad()
def test_weights_changed_between_runs_are_seen() -> None:
    network = awake(TEXT)
    denoise = Denoiser(network, EDM())
    x, _, cond = inputs(TEXT, batch=1)
    levels = path.karras(2, 0.1, 10.0)
    before = sample(denoise, x, levels, cond)
    for weight in network.parameters():
        weight.data.mul_(1.1)  # as averages of weights do it, unseen by autograd's counters
    after = sample(denoise, x, levels, cond)
    fresh = awake(TEXT)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(after, sample(Denoiser(fresh, EDM()), x, levels, cond)) and not torch.equal(after, before)


@torch.no_grad()
def test_what_a_trajectory_yields_is_never_written_again() -> None:
    network = awake(TEXT)
    x, _, cond = inputs(TEXT, batch=1)
    for solver in ("euler", "heun", "dpmpp_2m", "eab4", "eab3_data", "lms4", "unipc3", "sa3", "adams"):
        seen: list[tuple[Tensor, Tensor]] = []
        for _, state, D in trajectory(
            cfg(2.0)(Denoiser(network, EDM())), x, path.karras(6, 0.1, 10.0), cond, solver=solver
        ):
            assert D is not None
            seen += [(state, state.clone()), (D, D.clone())]
        assert all(torch.equal(kept, copy) for kept, copy in seen), solver
