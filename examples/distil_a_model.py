"""Distil a guided model: what took it 64 evaluations a picture takes the student 4, and its weight still turns.

python examples/distil_a_model.py          # about an hour of one CPU core; a minute with images=500 shows how it goes
"""

from __future__ import annotations

import time

import guided
from guided.tune import Settings, distill


def main(
    teacher: guided.Model | None = None, prompt: str = "red apple", out: str = "runs/fast-emoji", **changes: object
) -> dict[str, float]:
    """Seconds and evaluations a picture, of both, and how much the student's pictures change with its weight."""
    teacher = teacher or guided.load("emoji")
    settings = Settings(**{"guide": "cfg(4)", "steps": 4, "images": 24_000, "precision": "bf16", **changes})
    student, stage = None, None
    for step in distill(teacher, out, settings):
        if step.stage != stage:
            print(f"{step.images} of {step.total} images: {step.stage}")
        stage, student = step.stage, step.model
    asked = {"labels": 0} if teacher.classes else {"prompts": prompt}
    found = {}
    for name, model, steps in (("teacher", teacher, settings.long), ("student", student, settings.steps)):
        model.generate(**asked, steps=steps, seed=0)  # the first call warms up
        begun = time.perf_counter()
        drawn = model.generate(**asked, n=4, steps=steps, guide=settings.guide, seed=0)
        found[f"{name}: seconds"] = (time.perf_counter() - begun) / 4
        found[f"{name}: evaluations"] = drawn.records[0]["nfe"] * (2 if name == "teacher" else 1)
        drawn.save(f"{out}/{name}")
    low, high = (student.generate(**asked, n=4, w=w, seed=0).tensor for w in (1.0, 3.0))
    found["student: change from w = 1 to 3"] = float((high - low).abs().mean())
    for name, value in found.items():
        print(f"{name:34} {value:.4g}")
    return found


if __name__ == "__main__":
    main()
