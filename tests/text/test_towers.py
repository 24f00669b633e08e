"""Against the libraries' own batched, padded forward passes."""

from __future__ import annotations

import pytest
import torch

from guided.text import open

PROMPTS = ["a red circle", "a", "a cat, left of a horse", ""]


def reference(folder, kind: str) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """What transformers makes of the prompts in one padded batch: states, its pooled vector, attention mask."""
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(PROMPTS, padding="max_length", max_length=30, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    pooled = out.text_embeds if "text_embeds" in out else out.get("pooler_output")
    return out.last_hidden_state, pooled, batch["attention_mask"].bool()


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        ("clip", "CLIPTextModel"),
        ("clip_projected", "CLIPTextModelWithProjection"),
        ("t5", "T5EncoderModel"),
        ("bert", "BertModel"),
    ],
)
def test_states_are_those_of_transformers(kind: str, library: str, folder) -> None:
    states, pooled, mask = reference(folder(kind), library)
    encoder = open(str(folder(kind)))
    out = encoder(PROMPTS)
    assert encoder.spec["class"] == library
    assert out.mask.sum(1).tolist() == mask.sum(1).tolist()
    torch.testing.assert_close(out.tokens[out.mask], states[mask], atol=1e-5, rtol=0)
    if kind.startswith("clip"):
        torch.testing.assert_close(out.vector, pooled, atol=1e-5, rtol=0)
    elif kind == "t5":
        assert out.vector is None
    else:
        mean = (states * mask[..., None]).sum(1).double() / mask.sum(1)[:, None]
        unit = mean / mean.square().mean(1, keepdim=True).sqrt()
        torch.testing.assert_close(out.vector.double(), unit, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["open_clip", "open_clip_both_ways"])
def test_vectors_are_those_of_open_clip(kind: str, folder) -> None:
    import open_clip

    name = f"local-dir:{folder(kind)}"
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(name)(PROMPTS))
    out = open(str(folder(kind)))(PROMPTS)
    torch.testing.assert_close(out.vector, expected, atol=1e-5, rtol=0)


def test_states_of_a_causal_open_clip_tower_end_in_its_vector(folder) -> None:
    encoder = open(str(folder("open_clip")))
    out = encoder(PROMPTS)
    last = out.tokens[torch.arange(len(PROMPTS)), out.mask.sum(1) - 1]
    torch.testing.assert_close(last @ encoder.tower.model.text_projection, out.vector, atol=1e-5, rtol=0)


def test_a_whole_clip_gives_its_text_tower(folder, tmp_path) -> None:
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig

    AutoTokenizer.from_pretrained(folder("clip")).save_pretrained(tmp_path)
    text = CLIPTextConfig.from_pretrained(folder("clip")).to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8}, projection_dim=24
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = open(str(tmp_path))
    ids = torch.tensor([encoder.tokenizer("a red circle").ids])
    with torch.no_grad():
        expected = model.text_projection(model.text_model(input_ids=ids).last_hidden_state[:, -1])
    assert encoder.spec["class"] == "CLIPTextModelWithProjection" and encoder.vector_width == 24
    torch.testing.assert_close(encoder(["a red circle"]).vector, expected, atol=1e-5, rtol=0)


def test_clip_ids_are_open_clips_own(folder) -> None:
    import open_clip

    ours, theirs = open(str(folder("clip"))).tokenizer, open_clip.SimpleTokenizer()
    for text in ("a photo of a cat", "Crème brûlée", "日本 \U0001f600", "", "it's 12.5%"):
        ids = theirs(text)[0]
        assert ours(text).ids == ids[: int(ids.argmax()) + 1].tolist()


def test_a_cut_inside_a_word_quotes_the_rest_of_it(folder) -> None:
    with pytest.warns(UserWarning, match="not read"):
        (cut,) = open(str(folder("bert")), length=6)(["cat abcde red"]).cut
    assert cut == "de red"  # [CLS] cat a ##b ##c [SEP]
    tokenizer = open(str(folder("open_clip")), length=4).tokenizer
    assert tokenizer("a photo, of Cats").cut == ", of cats"  # open_clip's cut is inside "photo,": decoded
    assert tokenizer("a photo of  Cats").cut == "of  Cats"
