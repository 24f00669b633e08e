"""A program of its own: tensors out of a pickle, into a safetensors file. Run by `guided.zoo.weights`, never imported.

python _unpickle.py SOURCE TARGET MEMORY SECONDS: reads SOURCE with torch's restricted unpickler, which builds tensors
and plain containers and nothing else; takes at most MEMORY bytes more than it has and SECONDS of processor time.
Prints one line and leaves with 1 where the file is refused.
"""

import contextlib
import os
import sys

import safetensors.torch
import torch


def limit(memory: int, seconds: int) -> None:
    """Bound what this process may take from here on, as far as the system knows such bounds."""
    with contextlib.suppress(ImportError):
        import resource

        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def tensors_of(found: object, size: int) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, itself or under "state_dict"; ValueError for anything else or more than the file."""
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, expected a mapping of names to tensors")
    tensors, total = {}, 0
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            if isinstance(value, int | float | str) or value is None:
                continue  # a step counter beside the weights
            raise ValueError(f"{name!r:.80} is a {type(value).__name__}, expected a tensor")
        if not isinstance(name, str) or value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"{name!r:.80} is no dense tensor under a name")
        # A tensor of stride 0 claims more elements than the file has bytes.
        total += value.numel() * value.element_size()
        if value.numel() * value.element_size() > value.untyped_storage().nbytes() or total > 4 * size:
            raise ValueError(f"{name!r:.80} claims the shape {list(value.shape)}, more than the file can hold")
        tensors[name] = value.detach()
    return tensors


def main(source: str, target: str, memory: str, seconds: str) -> int:
    """Read SOURCE and write TARGET; the exit code."""
    limit(int(memory), int(seconds))
    try:
        found = torch.load(source, map_location="cpu", weights_only=True, mmap=False)
        tensors = tensors_of(found, os.path.getsize(source))
        safetensors.torch.save_file({name: value.clone().contiguous() for name, value in tensors.items()}, target)
    except MemoryError:
        print("it takes more memory than its size allows")
        return 1
    except Exception as error:  # whatever a hostile file brings about is one line for the parent
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])[:400])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
