"""Faults in the data, the text, the networks, the judging and the model."""

from __future__ import annotations

from tests.faults.fault import Fault

D, E, M, X, N = "tests/data", "tests/evaluate", "tests/model", "tests/text", "tests/nn"
ROOMS = [
    Fault(
        "held-out bases are trained on",
        "guided/data/splitting.py",
        "if k not in out",
        "if True",
        f"{D}/test_splitting.py::test_the_emoji_set",
    ),
    Fault(
        "hidden colours shine through alpha",
        "guided/data/decoding.py",
        "behind * (full - a)",
        "behind * a",
        f"{D}/test_decoding.py::test_alpha_is_composited_on_the_background",
    ),
    Fault(
        "one EXIF orientation forgotten",
        "guided/data/decoding.py",
        "if turn >= 5",
        "if turn > 5",
        f"{D}/test_decoding.py::test_exif_orientation",
    ),
    Fault(
        "data order off by one",
        "guided/data/order.py",
        "divmod(counter, len",
        "divmod(counter + 1, len",
        f"{D}/test_order.py::test_known_values",
    ),
    Fault(
        "ELBO with a level off by one",
        "guided/evaluate/likelihood.py",
        "path[i + 1] ** -2",
        "path[i] ** -2",
        f"{E}/test_likelihood.py",
    ),
    Fault(
        "coverage counts itself as a neighbour",
        "guided/evaluate/distances.py",
        "kthvalue(k + 1",
        "kthvalue(k",
        f"{E}/test_distances.py::test_coverage_by_counting",
    ),
    Fault(
        "KID is biased by its diagonal",
        "guided/evaluate/distances.py",
        "block.diagonal(start).zero_()",
        "block",
        f"{E}/test_distances.py::test_kid_is_the_brute_force_formula",
    ),
    Fault(
        "held-out truth mistaken",
        "guided/evaluate/retrieval.py",
        "held.index(row)",
        "0",
        f"{E}/test_retrieval.py::test_the_perfect_artist_is_right_in_everything",
    ),
    Fault(
        "a damaged weight is not noticed",
        "guided/model/store.py",
        "if digest != hashes.get(name):",
        "if False:",
        f"{M}/test_store.py::test_every_flipped_byte_is_noticed",
    ),
    Fault(
        "images of a call share their seed",
        "guided/model/drawing.py",
        "Noise([image.seed for image in plan.images[rows]], plan.stream)",
        "Noise([plan.images[0].seed for image in plan.images[rows]], plan.stream)",
        f"{M}/test_generate.py::test_alone_as_in_a_batch_of_16",
    ),
    Fault(
        "padding reaches the network",
        "guided/nn/ports.py",
        "tokens = torch.where(mask[..., None], tokens, 0.0)",
        "mask = torch.ones_like(mask)",
        f"{N}/test_ports.py",
    ),
    Fault(
        "pixel places transposed",
        "guided/nn/ports.py",
        "torch.stack([columns, rows])",
        "torch.stack([rows, columns])",
        f"{N}/test_ports.py::test_coordinates_are_the_pixel_centres_and_reach_the_network",
    ),
]
