"""CLIP's tokenizer, made of what open_clip's package carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided._compat import ensure_torchvision
from guided.zoo import bpe

transformers = pytest.importorskip("transformers")


def test_clips_vocabulary_is_in_open_clip(tmp_path: Path) -> None:
    """The tokenizer made of it gives open_clip's own ids, and pads as it was told."""
    ensure_torchvision()
    import open_clip

    own = open_clip.SimpleTokenizer()
    for pad, number in (("!", 0), (bpe.END, 49407)):
        for name, content in bpe.files([tmp_path / "tokenizer"], bpe.SIZE, pad).items():
            (tmp_path / name).write_bytes(content)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
        assert type(tokenizer).__name__.startswith("CLIPTokenizer") and len(tokenizer) == 49408
        assert tokenizer.pad_token_id == number and tokenizer.model_max_length == 77
        # As in the published folders, a "!" in a prompt is the padding's where that is "!".
        last = "left!" if number else "left"
        for text in ("", f"A photo of a cat, 12.5% {last}", "an astronaut's horse - in 1969", "Crème brûlée, 日本語"):
            assert tokenizer(text)["input_ids"] == [49406, *own.encode(text), 49407]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "_installed", lambda: None)
        with pytest.raises(FileNotFoundError, match=r"nowhere, the package open_clip.*on the hub"):
            bpe.files([Path("nowhere")], bpe.SIZE, "!")
