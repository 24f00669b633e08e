"""Edit a picture exactly as strongly as asked, and see what each way of editing leaves of it.

python examples/edit_gently.py
"""

from __future__ import annotations

import guided
from guided.tasks import Changed, DDPMInversion, FlowEdit, Psnr


def main(steps: int = 24, seed: int = 0) -> dict[str, dict[str, float]]:
    model = guided.load("emoji")
    apple = model.generate("red apple", seed=seed)[0]
    ways = {
        "SDEdit, 0.6": {"strength": 0.6},
        "SDEdit, a tenth of the pixels": {"faithful": Changed(0.1)},
        "SDEdit, 20 dB": {"faithful": Psnr(20)},
        "FlowEdit": {"by": FlowEdit("red apple")},
        "DDPM inversion": {"by": DDPMInversion("red apple"), "w": 2.0},
    }
    found = {}
    for name, arguments in ways.items():
        edited = model.edit(apple, "green apple", steps=steps, seed=seed, **arguments)
        found[name] = {key: edited.records[0][key] for key in ("strength", "changed", "psnr", "nfe")}
    return found


if __name__ == "__main__":
    for name, record in main().items():
        told = "  ".join(f"{key} {value:.3g}" for key, value in record.items())
        print(f"{name:32}{told}")
