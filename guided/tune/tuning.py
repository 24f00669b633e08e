"""`tune`: a model and a folder of pictures in, a tuned model out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from guided.train import Step, fit
from guided.tune.choosing import Asked, recipe_for


def tune(
    model: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: str = "lora",
    asked: Asked | None = None,
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Iterator[Step]:
    """Tune a model on a person's pictures, yielding a `Step` an update; the last one holds the tuned `Model`.

    model: whatever `guided.load` opens to one model. data: what `guided.data.open` opens, with captions, class folders
    or neither. method: "lora", "dora", "full", "dreambooth" (the weights themselves, or adapters where the model is
    large, of pictures called by one word) or "textual-inversion" (a new word alone). asked, changes: see `recipe_for`.
    The result stands in `out`/model: an adapter beside its base, or a model. The same call goes on where a stopped run
    stands, bit for bit. Raises what `recipe_for` raises at once, and what `guided.fit` raises.
    """
    from guided import zoo

    return fit(recipe_for(zoo.load_model(model), model, data, method, out, asked, changes), device=device)
