"""`python -m guided.evaluate space DATA` and `python -m guided.evaluate classifier DATA --out DIR`.

The first prints whether real pictures find themselves in our feature spaces; the second trains the classifier that
judges models of classes, on all pictures but the 12.5 % it is tested on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from guided.evaluate import measures
from guided.evaluate.classifier import Schedule, train_classifier
from guided.evaluate.features import Blur, Thumbnail, self_retrieval
from guided.evaluate.material import Real, real


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two commands; errors of input exit with 2."""
    parser = argparse.ArgumentParser(prog="python -m guided.evaluate", description=__doc__)
    parser.add_argument("command", choices=("space", "classifier"))
    parser.add_argument("data", help="a folder or file of pictures, as for `guided data check`")
    parser.add_argument("--size", type=int, default=32, help="side in pixels (default 32)")
    parser.add_argument("--out", help="where the classifier is written")
    parser.add_argument("--epochs", type=float, default=Schedule().epochs, help="passes over the data (default 12)")
    parser.add_argument("--device", default="cpu", help="where it is trained: cpu, cuda, cuda:N")
    parser.add_argument("--no-flip", action="store_true", help="left and right mean something")
    arguments = parser.parse_args(argv)
    if arguments.command == "classifier" and not arguments.out:
        parser.error("classifier: --out says where it is written")
    try:
        pictures = real(arguments.data, (arguments.size, arguments.size))
        print(f"{arguments.data}: {len(pictures.records)} pictures, {pictures.preprocessing}")
        if arguments.command == "space":
            every, _ = pictures.read(range(len(pictures.records)))
            for space in (Thumbnail(), Blur()):
                print(space.name, *(f"  {figure}" for figure in self_retrieval(space, every)), sep="\n")
            return 0
        return _classifier(pictures, arguments)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _classifier(pictures: Real, arguments: argparse.Namespace) -> int:
    if not pictures.source.classes:
        raise ValueError(f"{arguments.data}: has no classes to train a classifier on")
    train, test = measures.classified(pictures)
    start = time.monotonic()

    def watch(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}, loss {loss:.3f}, {time.monotonic() - start:.0f} s", flush=True)

    schedule = Schedule(epochs=arguments.epochs, flip=not arguments.no_flip)
    card = {"data": measures.title(pictures), "test pictures": f"{len(test[1])}, by a hash of their names"}
    model = train_classifier(
        *train, pictures.source.classes, schedule, test=test, card=card, device=arguments.device, watch=watch
    )
    model.save(arguments.out)
    tested = model.card.get("test")
    print(f"{arguments.out}: test accuracy {100 * tested['value']:.1f} % of {tested['n']}" if tested else arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
