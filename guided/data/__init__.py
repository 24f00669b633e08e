"""Sources of pictures, captions and labels; one decoding function; what the network sees of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guided.data.decoding import Decoded, decode
    from guided.data.opening import open
    from guided.data.order import Order
    from guided.data.pairing import pairs
    from guided.data.parquet import ParquetSource
    from guided.data.pictures import Pictures
    from guided.data.records import BadPicture, Record, Refused, Source
    from guided.data.resize import fit
    from guided.data.splitting import Split, base_caption, split, tone

# No module is named like a public function: importing it would put the module in the function's place.
_PLACES = {
    "BadPicture": "records",
    "Decoded": "decoding",
    "Order": "order",
    "ParquetSource": "parquet",
    "Pictures": "pictures",
    "Record": "records",
    "Refused": "records",
    "Source": "records",
    "Split": "splitting",
    "base_caption": "splitting",
    "check": "checking",
    "decode": "decoding",
    "fit": "resize",
    "noto": "emoji",
    "open": "opening",
    "pairs": "pairing",
    "split": "splitting",
    "tone": "splitting",
}

__all__ = ["BadPicture", "Decoded", "Order", "ParquetSource", "Pictures", "Record", "Refused", "Source", "Split"]
__all__ += ["base_caption", "decode", "fit", "open", "pairs", "split", "tone"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"guided.data.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_PLACES, "shapes"])
