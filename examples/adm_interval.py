"""guided-diffusion's ImageNet network guided by its unconditional twin, in an interval of noise levels, compiled.

python examples/adm_interval.py CONDITIONAL UNCONDITIONAL 207 [--compile]
CONDITIONAL, UNCONDITIONAL: 256x256_diffusion and 256x256_diffusion_uncond as .safetensors, or folders that `guided
convert FILE.pt FOLDER --to guided --pickle` wrote; 207 is ImageNet's golden retriever.
"""

from __future__ import annotations

import sys

import guided
from guided.guide import between


def main(
    conditional: str,
    unconditional: str,
    label: str,
    out: str = "out",
    w: float = 2.5,
    steps: int = 30,
    seed: int = 0,
    compiled: bool = False,
) -> dict[str, int]:
    """Draw a class plainly, with guidance, and with guidance in an interval; how many evaluations each took."""
    model, other = guided.load(conditional), guided.load(unconditional)
    counts: list[int] = []
    for denoiser in (model.denoiser, other.denoiser):
        if compiled:
            denoiser.network.compile()  # in place: guides and solvers go on as before
        denoiser.register_forward_hook(lambda _, __, D: counts.append(len(D)))
    # ADM's table of classes has no row for "none", so the other side of classifier-free guidance is a network that was
    # never told one (Dhariwal and Nichol 2021). The interval is the one of Kynkaanniemi et al. 2024 (arXiv 2404.07724)
    # for ImageNet, (0.28, 2.90].
    away = between(other.denoiser, w)
    found = {}
    for name, guide in {"plain": None, "always": away, "interval": away.during(0.28, 2.90)}.items():
        counts.clear()
        drawn = model.generate(labels=[label], guide=guide, steps=steps, seed=seed)
        drawn.save(out, f"{name}-")
        found[name] = sum(counts)
        print(f"{name:10} {found[name]} evaluations")
    return found


if __name__ == "__main__":
    main(*[word for word in sys.argv[1:] if word != "--compile"], compiled="--compile" in sys.argv)
