"""Conditions at the door: what becomes a row a sample, what is shared, and what a hash of them tells apart."""

from __future__ import annotations

import hashlib
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.conditions import as_condition, cycle, hash_condition
from dode.noise import standard_noise
from dode.schedules import VP

SCHEDULE = VP.linear()
LABELS = (
    [0, 1, 2],
    range(3),
    np.array([0, 1, 2]),
    np.array([0, 1, 2], np.uint16),
    [np.int64(0), 1, 2],
    torch.tensor([0, 1, 2]),
)


def labelled(x: Tensor, t: Tensor, label: Any) -> Tensor:
    assert isinstance(label, Tensor) and label.shape == (len(x),)
    return x * 0.1 * (1 + label[:, None])


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: type(labels).__name__)
def test_labels_of_every_form_are_one_a_sample_with_and_without_guidance(labels: Any, scale: float) -> None:
    denoiser = dode.Denoiser(labelled, SCHEDULE, "sample", guidance_scale=scale, null_condition={"label": [3]})
    x = standard_noise(0, 3, (4,))
    own = torch.tensor([1.0, 2.0, 3.0])[:, None]
    torch.testing.assert_close(denoiser(x, 400.0, label=labels), x * 0.1 * (4 + scale * (own - 4)))


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: type(labels).__name__)
def test_a_bundled_network_samples_and_distils_with_labels_of_every_form(labels: Any) -> None:
    denoiser = dode.load("fashion")
    tableau = dode.solver("ddim").tableau(denoiser.schedule, 1)
    noise = standard_noise(0, 3, denoiser.shape)
    expected = dode.sample(denoiser, tableau, noise, class_labels=torch.tensor([0, 1, 2]))
    assert torch.equal(dode.sample(denoiser, tableau, noise, class_labels=labels), expected)
    result = dode.distill(
        denoiser, "ddim", 1, samples=2, held_out=0, teacher_scale=2, class_labels=labels, **dode.distillation.PAPER
    )
    assert np.isfinite(result.tableau.b).all()


def test_nested_numbers_become_tensors_and_structures_stay() -> None:
    Pair = namedtuple("Pair", "first second")
    word = torch.ones(2, 3)
    made = as_condition(
        {
            "nested": {"rows": [[1, 2], [3, 4]], "one": np.float64(2.5), "text": ["a", "b"]},
            "mixed": [word, None, "x"],
            "size": (64, 48),
            "pair": Pair([1.0], np.zeros((2, 2))),
            "flag": [True, False],
            "none": None,
            "empty": [],
        }
    )
    assert torch.equal(made["nested"]["rows"], torch.tensor([[1, 2], [3, 4]]))
    assert made["nested"]["one"] == 2.5 and type(made["nested"]["one"]) is float
    assert made["nested"]["text"] == ["a", "b"]
    assert made["mixed"][0] is word and made["mixed"][1:] == [None, "x"]
    assert made["size"] == (64, 48) and made["none"] is None and made["empty"] == []
    assert isinstance(made["pair"], Pair) and made["pair"].second.dtype == torch.float32
    assert made["flag"].dtype == torch.bool


def test_shared_values_are_the_same_with_and_without_guidance() -> None:
    seen: list[Any] = []

    def net(x: Tensor, t: Tensor, label: Tensor, level: Tensor, mode: str, size: tuple[int, int]) -> Tensor:
        seen.append((level.ndim, float(level), mode, size))
        return x * label[:, None]

    plain = dode.Denoiser(net, SCHEDULE, "sample", null_condition={"label": 0.0, "mode": "fine", "size": (2, 3)})
    x = standard_noise(0, 2, (4,))
    for denoiser in (plain, plain.replace(guidance_scale=3.0)):
        denoiser(x, 400.0, label=[1.0, 2.0], level=torch.tensor(0.5), mode="fine", size=(2, 3))
    assert seen == [(0, 0.5, "fine", (2, 3))] * 2


def test_a_list_of_tensors_is_guided_item_by_item() -> None:
    def net(x: Tensor, t: Tensor, words: list[Tensor]) -> Tensor:
        return x * words[0][:, None] + words[1]

    words, null = [torch.tensor([1.0, 2.0]), torch.ones(2, 4)], [torch.tensor([0.5]), torch.zeros(1, 4)]
    denoiser = dode.Denoiser(net, SCHEDULE, "sample", guidance_scale=2.0, null_condition={"words": null})
    x = standard_noise(0, 2, (4,))
    found = denoiser(x, 400.0, words=words)
    expected = 2 * net(x, x, words) - net(x, x, [null[0].expand(2), null[1].expand(2, 4)])
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_a_condition_is_refused_in_one_line() -> None:
    denoiser = dode.Denoiser(lambda x, t, **cond: x, SCHEDULE, "sample")
    x = standard_noise(0, 2, (4,))
    with pytest.raises(TypeError, match=r"the condition labels is an iterator, .* give a list or a tensor"):
        denoiser(x, 400.0, labels=(i for i in range(2)))
    with pytest.raises(ValueError, match=r"the condition c\['tokens'\] has rows of different lengths"):
        denoiser(x, 400.0, c={"tokens": [[1, 2], [3]]})
    guided = denoiser.replace(guidance_scale=2.0, null_condition={"text": "nothing"})
    with pytest.raises(ValueError, match="the condition text and its null condition must be tensors or numbers"):
        guided(x, 400.0, text="a cat")
    guided = denoiser.replace(guidance_scale=2.0, null_condition={"words": torch.zeros(1, 3, 4)})
    with pytest.raises(ValueError, match=r"words has rows of shape \(2, 4\), its null condition \(3, 4\)"):
        guided(x, 400.0, words=torch.zeros(2, 2, 4))


def test_sample_i_of_a_list_has_its_row_modulo_their_number() -> None:
    assert cycle({"label": [5, 6, 7]}, 2, 6)["label"].tolist() == [7, 5, 6, 7]


def hashed(value: Any) -> str:
    digest = hashlib.sha256()
    hash_condition(digest, {"c": value})
    return digest.hexdigest()


def test_every_content_has_its_own_hash() -> None:
    long = np.ones(2000)
    longer = long.copy()
    longer[1000] = 2
    values: list[Any] = [
        None,
        "None",
        0,
        0.0,
        False,
        "0",
        torch.tensor(0.0),
        torch.tensor(0.9),
        torch.tensor([0.9]),
        torch.tensor([0.9]).double(),
        long,
        longer,
        {"a": long},
        {"a": longer},
        {"a": {"b": torch.tensor(1)}},
        {"a": {"b": torch.tensor(2)}},
        [torch.ones(2), "x"],
        [torch.ones(2), ["x"]],
        [torch.ones(1), torch.ones(1)],
        (torch.ones(1), torch.ones(1)),
        ("ab", "c"),
        ("a", "bc"),
        (("a",), "b"),
        ("a", ("b",)),
        {},
        [],
    ]
    assert len({hashed(value) for value in values}) == len(values)


def test_equal_contents_have_equal_hashes() -> None:
    assert hashed({"a": 1, "b": torch.arange(3)}) == hashed({"b": [0, 1, 2], "a": 1})
    assert hashed(np.array([1.0, 2.0])) == hashed([1.0, 2.0])


def test_a_condition_without_known_content_has_no_hash() -> None:
    for value in (torch.Generator(), object(), {"a": [None, lambda x: x]}):
        with pytest.raises(TypeError, match="cannot be told from another's"):
            hashed(value)
