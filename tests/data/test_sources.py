"""Every layout of pictures on disk opens as what it is, with its names, captions and labels."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided import data

TWO = {"cats": ["a", "b"], "dogs": ["c"]}


def png(value: int = 0, size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def put(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def colours(source: data.Source) -> list[int]:
    """The grey value of each picture: which bytes belong to which record."""
    return [int(data.decode(source.bytes(i)).array[0, 0, 0]) for i in range(len(source.records))]


def test_class_folders(tmp_path: Path) -> None:
    put(tmp_path, {"dogs/c.PNG": png(3), "cats/b.jpg": png(2), "cats/deep/a.png": png(1), "cats/notes.md": "x"})
    source = data.open(tmp_path)
    assert source.summary["format"] == "class folders" and source.classes == ("cats", "dogs")
    assert [(r.name, r.label) for r in source.records] == [("cats/b.jpg", 0), ("cats/deep/a.png", 0), ("dogs/c.PNG", 1)]
    assert colours(source) == [2, 1, 3] and source.summary["notes"] == ["1 other file left out"]


def test_the_train_folder_alone_is_used(tmp_path: Path) -> None:
    put(tmp_path, {"train/x/a.png": png(1), "train/y/b.png": png(2), "test/x/c.png": png(3)})
    source = data.open(tmp_path)
    assert source.classes == ("x", "y") and colours(source) == [1, 2] and "1 picture" in source.summary["notes"][-1]


def test_plain_pictures_and_one_picture(tmp_path: Path) -> None:
    put(tmp_path, {"b.png": png(2), "a.bmp": png(1), "more/c.png": png(3)})
    source = data.open(tmp_path)
    assert source.summary["format"] == "pictures" and colours(source) == [1, 2, 3] and source.classes == ()
    assert [r.name for r in data.open(tmp_path / "b.png").records] == ["b.png"]


def test_sidecar_captions(tmp_path: Path) -> None:
    put(
        tmp_path, {"a.png": png(1), "a.txt": "\ufeffa red\r\n apple \n", "b.png": png(2), "c.png": png(3), "c.txt": " "}
    )
    source = data.open(tmp_path)
    assert source.summary["format"] == "sidecar captions"
    assert [r.caption for r in source.records] == ["a red apple", None, None]
    assert "2 of 3 captions empty" in source.summary["notes"][0]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_imagefolder(tmp_path: Path, kind: str) -> None:
    rows = [("in/b.png", "a dog, big", "dog"), ("a.png", 'the "cat"', "cat")]
    lines = [json.dumps({"file_name": n, "text": t, "label": k}) for n, t, k in rows]
    table = (
        "\n".join(lines)
        if kind == "jsonl"
        else 'file_name,text,label\nin/b.png,"a dog, big",dog\na.png,"the ""cat""",cat\n'
    )
    put(tmp_path, {"in/b.png": png(2), "a.png": png(1), "other.png": png(9), f"metadata.{kind}": table})
    for path in (tmp_path, tmp_path / f"metadata.{kind}"):
        source = data.open(path)
        assert [(r.caption, r.label) for r in source.records] == [("a dog, big", 1), ('the "cat"', 0)]
        assert source.classes == ("cat", "dog") and colours(source) == [2, 1]
        assert source.skipped == (("other.png", f"not listed in metadata.{kind}"),)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_line_ends_where_its_format_says(tmp_path: Path, kind: str) -> None:
    caption = "a cat\u2028and\x85a dog"
    row = json.dumps({"file_name": "a.png", "text": caption, "label": "²"}, ensure_ascii=False)
    table = row + "\n" if kind == "jsonl" else f'file_name,text,label\na.png,"{caption}\nbelow",²\n'
    (record,) = data.open(put(tmp_path, {"a.png": png(1), f"metadata.{kind}": table})).records
    assert record.caption == (caption if kind == "jsonl" else f"{caption}\nbelow") and record.label == 0


BAD_ROWS = [
    ('{"file_name": "a.png", "label": -1}', "label -1"),
    ('{"file_name": "a.png", "label": 1.5}', "label: expected a name or a whole number, got float 1.5"),
    ('{"file_name": "a.png", "label": true}', "got bool True"),
    ('{"file_name": 3}', "file_name: expected a file name, got int 3"),
    ("[1]", "expected a JSON object, got list"),
    ('{"file_name": ""}', "expected a file name"),
    ("", "holds no rows"),
]


@pytest.mark.parametrize(("line", "says"), BAD_ROWS)
def test_bad_rows(tmp_path: Path, line: str, says: str) -> None:
    put(tmp_path, {"a.png": png(), "metadata.jsonl": line})
    with pytest.raises(ValueError, match=r"metadata\.jsonl") as error:
        data.open(tmp_path)
    assert says in str(error.value)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path, {"out.png": png(), "set/metadata.jsonl": '{"file_name": "in.png"}'})
    (tmp_path / "set/in.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(data.Refused, match="leads out"):
        data.open(tmp_path / "set")
    assert len(data.open(tmp_path / "set", root_check=False).records) == 1


def test_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part in range(2):
        image = [{"bytes": png(10 * part + k), "path": None} for k in range(5)]
        table = pa.table({"image": image, "text": [f"t{part}{k}" for k in range(5)], "label": [0, 1, 2, None, 0]})
        pq.write_table(table, tmp_path / f"train-0000{part}.parquet", row_group_size=2)
    pq.write_table(table, tmp_path / "test-00000.parquet")
    source = data.open(tmp_path)
    assert colours(source) == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14] and source.records[6].caption == "t11"
    assert source.classes == ("0", "1", "2") and source.records[3].label is None
    again = pickle.loads(pickle.dumps(source))
    assert again.bytes(9) == source.bytes(9)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="no column holds pictures"):
        data.open(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="'text' is int64"):
        pq.write_table(pa.table({"image": [png()], "text": [1]}), tmp_path / "types.parquet")
        data.open(tmp_path / "types.parquet")


def test_the_real_sets(shared_data: Path) -> None:
    emoji, cifar = data.open(shared_data / "emoji"), data.open(shared_data / "cifar10")
    assert emoji.summary["format"] == "parquet" and len(emoji.records) == 3217 and emoji.classes == ()
    assert emoji.records[0].extra["group"] == "People & Body"
    assert len(cifar.records) == 40_000 and cifar.classes[6] == "frog"
    assert all(
        r.caption == f"a photo of a{'n' * (c[0] in 'a')} {c}"
        for r in cifar.records[:50]
        for c in [cifar.classes[r.label or 0]]
    )


def test_shards_written_by_webdataset(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    for part in range(2):
        with wds.TarWriter(str(tmp_path / f"set-{part}.tar")) as writer:
            for k in range(3):
                key = {"__key__": f"{part}/{k:04d}", "png": np.full((8, 8, 3), 10 * part + k, np.uint8)}
                writer.write(key | {"txt": f"text {part}{k}", "cls": k})
    source = data.open(tmp_path)
    assert colours(source) == [0, 1, 2, 10, 11, 12] and source.classes == ("0", "1", "2")
    assert [(r.name, r.caption, r.label) for r in source.records][4] == ("1/0001.png", "text 11", 1)
    assert pickle.loads(pickle.dumps(source)).bytes(5) == source.bytes(5)


def test_a_shard_cut_anywhere_gives_whole_samples(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for k in range(4):
            for name, body in ((f"{k}.png", png(k)), (f"{k}.txt", f"caption {k}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    whole = out.getvalue()
    for end in range(1500, 8 * 1024, 501):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        try:
            source = data.open(tmp_path / "cut.tar")
        except ValueError as error:
            assert end < 2100 and "cut.tar" in str(error)
            continue
        assert colours(source) == list(range(len(source.records)))
        assert all(r.caption == f"caption {k}" for k, r in enumerate(source.records)), end
        assert len(source.records) == 4 or any("cut" in why for _, why in source.skipped)


def test_a_row_group_or_a_shard_that_cannot_be_read_breaks_its_pictures_alone(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "set.parquet"
    table = pa.table({"image": [png(k) for k in range(4)]})
    pq.write_table(table, file, row_group_size=2, compression="none", use_dictionary=False)
    source = data.open(file)
    content = bytearray(file.read_bytes())
    begin = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[begin : begin + 16] = b"\xff" * 16
    file.write_bytes(content)
    assert source.bytes(0) == png(0)
    with pytest.raises(data.BadPicture, match=r"row 3: its row group cannot be read"):
        source.bytes(2)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    shard = data.open(tmp_path / "set.tar")
    (tmp_path / "set.tar").unlink()
    with pytest.raises(data.BadPicture, match="No such file"):
        shard.bytes(0)


@pytest.mark.parametrize("name", ["/abs.png", "..\\x.png", "a/../../b.png"])
def test_hostile_members(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(data.Refused, match=r"bad\.tar: refused: the member"):
        data.open(tmp_path / "bad.tar")


def test_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    rows = {"image": [{"bytes": png(k)} for k in range(3)], "text": ["a", None, "c"], "label": [1, 0, 1]}
    made = datasets.Dataset.from_dict(rows, features)
    made.save_to_disk(str(tmp_path / "saved"))
    for source in (data.open(made), data.open(datasets.DatasetDict(train=made)), data.open(tmp_path / "saved")):
        assert source.summary["format"] == "hub" and source.classes == ("x", "y") and colours(source) == [0, 1, 2]
        assert [(r.caption, r.label) for r in source.records] == [("a", 1), (None, 0), ("c", 1)]
    with pytest.raises(ValueError, match="no Image column"):
        data.open(made.remove_columns("image"))


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        data.open(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no pictures"):
        data.open(tmp_path)
    with pytest.raises(ValueError, match="expected one of auto"):
        data.open(tmp_path, format="zip")
    with pytest.raises(ValueError, match="shapes:3"):
        data.open("shapes:3")


def test_heavy_libraries_are_not_imported() -> None:
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'datasets', 'webdataset', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        "from guided import data\n"
        "data.decode, data.open, data.Pictures, data.split, data.Order, data.check, data.noto\n"
        "assert len(data.open('shapes').records) and callable(data.decode)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
