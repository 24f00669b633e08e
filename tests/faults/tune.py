"""Faults in tuning."""

from __future__ import annotations

from tests.faults.fault import Fault

T = "tests/tune"
TUNE = [
    Fault(
        "tune: replayed pictures pull to themselves, not to the base",
        "guided/tune/tuned.py",
        "target[rows] = base(x, sigma, self._of_base(batch, rows)).to(target)",
        "target[rows] = x0",
        f"{T}/test_tuning.py::test_replayed_pictures_pull_to_the_base_and_before_any_update_nowhere",
    ),
    Fault(
        "tune: too few pictures are replayed",
        "guided/tune/replay.py",
        "before = int(number * self.share)",
        "before = int(number * self.share / 2)",
        f"{T}/test_replay.py::test_a_share_of_all_counters_is_replayed_evenly_and_every_order_is_kept",
    ),
    Fault(
        "tune: replayed pictures are drawn again",
        "guided/tune/replay.py",
        "    if not folder.is_dir():",
        "    if True:",
        f"{T}/test_replay.py::test_replayed_pictures_are_drawn_once_and_kept",
    ),
    Fault(
        "tune: the budget is not kept",
        "guided/tune/budget.py",
        "beyond = budget is not None and rise is not None and rise > budget",
        "beyond = False",
        f"{T}/test_budget.py::test_the_best_state_lies_within_the_budget_or_forgot_least",
    ),
    Fault(
        "tune: a run never ends itself",
        "guided/tune/budget.py",
        "len(checks) - checks.index(best) <= patience",
        "True",
        f"{T}/test_budget.py::test_a_run_ends_when_no_check_was_better_for_so_long",
    ),
    Fault(
        "tune: a run ends while it wins back",
        "guided/tune/budget.py",
        'return "forgetting passed the budget" if now >= max(before) else None',
        'return "forgetting passed the budget"',
        f"{T}/test_budget.py::test_a_run_ends_when_no_check_was_better_for_so_long",
    ),
    Fault(
        "tune: what was forgotten is compared with nothing",
        "guided/tune/budget.py",
        "return Forgotten(math.fsum(now) / total - 1,",
        "return Forgotten(math.fsum(now) / total,",
        f"{T}/test_budget.py::test_forgotten_is_the_rise_of_the_loss_and_moved_the_change_of_the_estimates",
    ),
    Fault(
        "tune: the last state in place of the best",
        "guided/tune/tuned.py",
        "best = state.best if state.best is not None else state.averaged()",
        "best = state.averaged()",
        f"{T}/test_tuning.py::test_the_best_state_is_the_one_that_is_saved",
    ),
    Fault(
        "tune: a new class begins as the first class",
        "guided/tune/heads.py",
        "new.weight[old.num_embeddings - 1 :] = old.weight[-1]",
        "new.weight[old.num_embeddings - 1 :] = old.weight[0]",
        f"{T}/test_heads.py::test_known_classes_say_what_they_said_and_new_ones_what_no_class_said",
    ),
    Fault(
        "tune: new channels before those of x",
        "guided/tune/heads.py",
        "torch.cat((weight[:, :first], zeros, weight[:, first:]), 1)",
        "torch.cat((zeros, weight), 1)",
        f"{T}/test_heads.py::test_a_picture_that_is_shown_changes_nothing_yet",
    ),
    Fault(
        "tune: another encoder's words begin as anything",
        "guided/tune/heads.py",
        "sequence.project.weight.zero_()",
        "pass",
        f"{T}/test_heads.py::test_whatever_another_encoder_says_says_what_no_text_said",
    ),
    Fault(
        "tune: a changed picture is read from the cache",
        "guided/tune/latents.py",
        ".encode() + picture.numpy().tobytes())",
        ".encode())",
        f"{T}/test_published.py::test_latents_are_encoded_once_and_again_where_a_picture_changed",
    ),
    Fault(
        "tune: another base takes a run on",
        "guided/tune/preparing.py",
        'if facts is not None and facts["base"]["base_sha256"] != base.hash:',
        "if False:",
        f"{T}/test_tuning.py::test_another_base_cannot_take_a_run_on",
    ),
    Fault(
        "tune: averages forget what is frozen",
        "guided/train/ema.py",
        "copy.deepcopy(network, frozen)",
        "copy.deepcopy(network)",
        f"{T}/test_tuning.py::test_averages_share_what_is_frozen",
    ),
    Fault(
        "tune: a run that cannot fit is begun",
        "guided/tune/forecast.py",
        "if count.peak(recipe) > free:",
        "if False:",
        f"{T}/test_forecast.py::test_a_run_that_cannot_fit_is_refused_with_what_would",
    ),
    Fault(
        "memory: encoders stay on the device",
        "guided/tune/preparing.py",
        "    if not reads:\n",
        "    if reads:\n",
        f"{T}/test_counting.py::test_nothing_that_is_done_stays_on_the_device",
    ),
    Fault(
        "memory: encoders rest only when latents are made",
        "guided/tune/preparing.py",
        "    rest(base, device, reads=training.reads(tune), encodes=True)\n",
        "",
        f"{T}/test_counting.py::test_encoders_rest_before_the_latents_are_made",
    ),
    Fault(
        "memory: what is cast for all pictures is not counted",
        "guided/tune/counting.py",
        "return max(0, sizes[0] - picture), picture",
        "return 0, picture",
        f"{T}/test_counting.py::test_an_update_is_its_fixed_part_and_its_pictures",
    ),
    Fault(
        "memory: what dies is counted on",
        "guided/_memory.py",
        "self.now -= count",
        "pass",
        f"{T}/test_counting.py::test_tensors_count_from_their_birth_to_their_death_and_views_and_what_was_there_do_not",
    ),
    Fault(
        "memory: trained text encoders are not counted",
        "guided/tune/counting.py",
        "trained = bytes_of(optimizer.named(modules).values())",
        'trained = bytes_of(optimizer.named({"network": network}).values())',
        f"{T}/test_counting.py::test_the_count_holds_all_that_is_trained",
    ),
]
