"""Faults in distillation."""

from __future__ import annotations

from tests.faults.fault import Fault

D, T = "guided/tune/distilling", "tests/tune/distilling"
DISTILLING = [
    Fault(
        "distill: the target forgets that later moves shrink earlier ones",
        f"{D}/targets.py",
        "total = spread(ratio, x) * total + spread(1 - ratio, x) * D",
        "total = total + spread(1 - ratio, x) * D",
        f"{T}/test_targets.py::test_the_target_is_the_papers_and_one_step_of_it_lands_where_two_do",
    ),
    Fault(
        "distill: the target is not divided by its share of the way",
        f"{D}/targets.py",
        "return total / spread(1 - left, x)",
        "return total",
        f"{T}/test_targets.py::test_a_student_that_is_the_exact_function_makes_half_the_steps",
    ),
    Fault(
        "distill: high noise weighs nothing",
        f"{D}/targets.py",
        "sigma.pow(-2).clamp(min=1.0)",
        "sigma.pow(-2)",
        f"{T}/test_targets.py::test_weights_are_the_truncated_signal_to_noise_ratio",
    ),
    Fault(
        "distill: the levels of ECT stay apart",
        f"{D}/targets.py",
        "DOUBLING ** (tick + 1)",
        "DOUBLING",
        f"{T}/test_targets.py::test_ect_brings_its_levels_closer_tick_by_tick",
    ),
    Fault(
        "distill: a halving is taught one move of the long path",
        f"{D}/course.py",
        "(parts * stage.moves)",
        "(2 * parts * stage.moves)",
        f"{T}/test_course.py::test_a_stage_stands_on_its_own_levels_mostly",
    ),
    Fault(
        "distill: the weight's embedding does not begin at zero",
        "guided/nn/ports.py",
        "            zero(self.guidance.outer)\n",
        "            pass\n",
        f"{T}/test_run.py::test_a_student_begins_bit_for_bit_as_its_teacher",
    ),
    Fault(
        "distill: the teacher is guided by one weight for all",
        f"{D}/guides.py",
        "w=cond.guidance)",
        "w=self.w)",
        f"{T}/test_run.py::test_a_guided_teacher_of_many_weights_is_each_of_them",
    ),
    Fault(
        "distill: the teacher of a halving is not kept",
        f"{D}/state.py",
        'self.before.network.load_state_dict(tensors["before"])',
        "pass",
        f"{T}/test_state.py::test_a_checkpoint_brings_back_student_teacher_and_optimizer",
    ),
    Fault(
        "distill: noise hangs on the position in the batch",
        f"{D}/material.py",
        'generator("distill/noise", self.seed, counter)',
        'generator("distill/noise", self.seed, counter - counters[0])',
        f"{T}/test_run.py::test_samples_are_functions_of_seed_and_counter",
    ),
    Fault(
        "distill: the optimizer goes on into the next stage",
        f"{D}/state.py",
        "            self.optimizer = optimizer.make(self.modules, self.section)\n        return",
        "        return",
        f"{T}/test_state.py::test_a_new_stage_begins_with_a_new_optimizer_and_the_student_as_it_stands",
    ),
    Fault(
        "distill: a kill loses the log of what came after",
        f"{D}/run.py",
        'Lines(folder / "losses.jsonl", state.counter)',
        'Lines(folder / "losses.jsonl", state.total)',
        f"{T}/test_kill.py::test_a_killed_run_goes_on_to_the_same_bytes",
    ),
    Fault(
        "distill: a weight that was not learnt is drawn",
        "guided/model/distilled.py",
        "if not bool(((given >= lo) & (given <= hi)).all()):",
        "if not bool((given >= lo).all()):",
        "tests/model/test_distilled.py::test_what_it_did_not_learn_is_refused",
    ),
    Fault(
        "distill: a student's path holds at its own weight alone",
        "guided/model/request.py",
        "    if model.distilled is not None and model.distilled.jumps:\n        return found\n",
        "",
        "tests/model/test_distilled.py::test_a_weight_is_its_dial_in_one_evaluation_a_step_on_its_own_path",
    ),
    Fault(
        "distill: the dial adds to the base",
        "guided/guide/dial.py",
        "return [(-1.0, BASE), (1.0, Branch(guidance=w))]",
        "return [(1.0, Branch(guidance=w))]",
        "tests/guide/test_dial.py::test_the_weight_reaches_the_network_in_one_evaluation",
    ),
    Fault(
        "distill: a consistency model is not noised anew",
        "guided/model/distilled.py",
        'return paths.lcm(path) if self.method == "consistency" else path',
        "return path",
        "tests/model/test_distilled.py::test_a_consistency_model_is_noised_anew_at_every_level",
    ),
    Fault(
        "distill: a student by trajectory learns on its teacher's states",
        f"{D}/rollout.py",
        "x, memory = after.detach(),",
        "x, memory = goal,",
        f"{T}/test_oracle.py::test_each_step_is_measured_where_the_student_came_to_itself",
    ),
    Fault(
        "distill: the teacher is looked at one of its own steps late",
        f"{D}/rollout.py",
        "if at % parts == 0",
        "if at % parts == 1",
        f"{T}/test_oracle.py::test_a_path_is_cut_by_equal_ratios_and_the_teacher_is_seen_at_the_students_levels",
    ),
    Fault(
        "distill: the teacher's last steps stay far above its lowest level",
        f"{D}/rollout.py",
        "(min(lo, high / 2),",
        "(high / 2,",
        f"{T}/test_oracle.py::test_a_path_is_cut_by_equal_ratios_and_the_teacher_is_seen_at_the_students_levels",
    ),
    Fault(
        "distill: a checkpoint forgets the steps that were fitted",
        f"{D}/state.py",
        'facts.get("calibrated"), None',
        "None, None",
        f"{T}/test_state.py::test_a_checkpoint_brings_back_student_teacher_and_optimizer",
    ),
    Fault(
        "distill: the fitted steps are not on the student's card",
        f"{D}/export.py",
        "if calibrated is not None:",
        "if calibrated == {}:",
        f"{T}/test_run.py::test_as_many_evaluations_as_steps_and_a_folder_like_any_other",
    ),
]
