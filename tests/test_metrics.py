"""Image metrics: the library's on the same features, as their definitions say, with intervals that cover; and what they refuse."""

from __future__ import annotations

import math
import pickle
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from PIL import Image
from torch import Tensor, nn

from dode.cache import Cache
from dode.metrics import (
    Extractor,
    FewSamples,
    Gathering,
    Moments,
    Paired,
    Statistics,
    enough,
    extractor_of,
    frechet_distance,
    image_figures,
    inception_score,
    kernel_distance,
    precision_and_recall,
    statistics_of,
)
from dode.metrics.classes import ClassSums
from dode.metrics.extractors import Seen
from dode.metrics.intervals import share
from dode.metrics.paired import CLOSEST
from dode.report.results import METRICS

pytestmark = pytest.mark.filterwarnings("ignore::dode.metrics.FewSamples")

# The agreement that is asked for with the library.
PARITY = 1e-6


def features(n: int, d: int = 6, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Correlated Gaussians."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((d, d)) / math.sqrt(d)
    return (scale * rng.standard_normal((n, d)) @ mixing + shift).astype(np.float32)


def gathered(seen: np.ndarray, logits: np.ndarray | None = None, batch: int = 10**6, kept: int = 10_000) -> Gathering:
    found = Gathering(flat(), kept=kept)
    for first in range(0, len(seen), batch):
        rows = slice(first, first + batch)
        found.add_seen(Seen(seen[rows], None if logits is None else logits[rows]))
    return found


def flat() -> Extractor:
    return extractor_of(lambda images: images.flatten(1))


def images(n: int, shape: tuple[int, ...] = (1, 28, 28), seed: int = 0) -> Tensor:
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Same(nn.Module):
    """Features as torchmetrics takes them: handed through."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


# As the library has them


def library_distance(metric: nn.Module, seen: np.ndarray, others: np.ndarray) -> float:
    metric.update(torch.from_numpy(seen).double(), real=False)
    metric.update(torch.from_numpy(others).double(), real=True)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


def test_figures_are_torchmetrics_on_the_same_features() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance(feature=Same(6)).set_dtype(torch.float64)
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance(feature=Same(6), subsets=1, subset_size=300)
    score = pytest.importorskip("torchmetrics.image.inception").InceptionScore(feature=Same(10), splits=1)
    x, y, logits = features(300), features(300, seed=1, scale=1.2, shift=0.1), features(300, 10, seed=2, scale=3.0)
    found = image_figures(gathered(x, logits, batch=64), gathered(y))
    assert found["fid"].value == pytest.approx(library_distance(fid, x, y), abs=PARITY)
    assert found["kid"].value == pytest.approx(library_distance(kid, x, y), abs=PARITY)
    score.update(torch.from_numpy(logits).double())
    assert found["inception_score"].value == pytest.approx(float(score.compute()[0]), abs=PARITY)


def test_features_of_the_bundled_classifier_are_compared_as_torchmetrics_compares_them() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance(feature=Same(128)).set_dtype(torch.float64)
    one, other = Gathering(extractor_of("fashion")), Gathering(extractor_of("fashion"))
    expected = library_distance(fid, one.add(images(160)).features, other.add(images(150, seed=1) * 0.9).features)
    assert image_figures(one, other)["fid"].value == pytest.approx(expected, rel=PARITY, abs=PARITY)


# As their definitions say


def test_frechet_distance_is_the_closed_form() -> None:
    """Of covariances that commute: sum (a - b)^2 of the standard deviations."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    a, b = np.array([1.0, 2, 3, 4, 0]), np.array([2.0, 2, 0, 1, 0])
    mean, other = np.arange(5.0), np.ones(5)
    found = frechet_distance(mean, turn @ np.diag(a**2) @ turn.T, other, turn @ np.diag(b**2) @ turn.T)
    assert found == pytest.approx(((mean - other) ** 2).sum() + ((a - b) ** 2).sum(), abs=1e-10)


def test_frechet_distance_of_samples_tends_to_that_of_their_gaussians() -> None:
    truth = frechet_distance(np.zeros(3), np.eye(3), np.full(3, 0.5), 1.5**2 * np.eye(3))
    rng = np.random.default_rng(0)
    off = []
    for n in (100, 10_000):
        x, y = (Moments.of(a) for a in (rng.standard_normal((n, 3)), 1.5 * rng.standard_normal((n, 3)) + 0.5))
        off.append(abs(frechet_distance(x.mean, x.covariance, y.mean, y.covariance) - truth))
    assert off[1] < 0.03 * truth and off[1] < off[0]


@pytest.mark.parametrize("n", [4, 300])
def test_equal_sets_are_at_distance_zero(n: int) -> None:
    """With a singular covariance too."""
    x = gathered(features(n))
    found = image_figures(x, x, paired=True)
    assert found["fid"].value == pytest.approx(0, abs=1e-12)
    assert found["kid"].value == pytest.approx(0, abs=1e-12)
    assert found["precision"].value == found["recall"].value == 1


def test_kernel_distance_is_its_definition_where_the_numbers_differ() -> None:
    x, y = features(31), features(45, seed=1)
    kernels = [(a.astype(float) @ b.T.astype(float) / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    assert kernel_distance(x, y).value == pytest.approx(sum(own) - 2 * kernels[2].mean(), rel=1e-9)


def test_kernel_distance_is_unbiased_and_pairs_do_not_pull_it_down() -> None:
    """Equal distributions, sets of the same noise that differ by more noise."""
    rng = np.random.default_rng(0)
    found = {True: [], False: []}
    for _ in range(200):
        shared, *own = rng.standard_normal((3, 50, 4))
        x, y = (0.8 * shared + 0.6 * each for each in own)
        for paired, values in found.items():
            values.append(kernel_distance(x, y, paired=paired).value)
    errors = {paired: np.std(values) / math.sqrt(200) for paired, values in found.items()}
    assert abs(np.mean(found[True])) < 3 * errors[True]
    assert np.mean(found[False]) < -3 * errors[False]


@pytest.mark.parametrize(("n", "m"), [(40, 40), (57, 33), (7, 4)])
def test_precision_and_recall_are_their_definition(n: int, m: int) -> None:
    x, y = features(n, 4), features(m, 4, seed=1, scale=0.7, shift=0.3)

    def inside(queries: np.ndarray, others: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(others - one, axis=1))[3] for one in others]
        return np.mean([any(np.linalg.norm(q - one) <= r for one, r in zip(others, radii)) for q in queries])

    precision, recall = precision_and_recall(x, y)
    assert (precision.value, recall.value) == (inside(x, y), inside(y, x))


def test_intervals_of_precision_leave_out_groups_and_make_the_balls_again() -> None:
    """As it is without the shortcuts for what is certain."""
    x, y = features(90, 3), features(70, 3, seed=1, scale=0.6)
    left_out = [precision_and_recall(*(np.delete(each, slice(g, None, 10), axis=0) for each in (x, y))) for g in range(10)]
    for which, n in ((0, 90), (1, 70)):
        found = precision_and_recall(x, y)[which]
        half = 1.8331129 * math.sqrt(9 * np.var([each[which].value for each in left_out]))
        judged = share(found.value * n, n)
        assert found.low == pytest.approx(max(0.0, min(found.value - half, judged.low)), abs=1e-9)
        assert found.high == pytest.approx(min(1.0, max(found.value + half, judged.high)), abs=1e-9)


def test_inception_score_is_one_where_all_are_alike_and_the_classes_where_all_differ() -> None:
    sure = 50 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(ClassSums.of(sure)).value == pytest.approx(10, rel=1e-6)
    assert inception_score(ClassSums.of(np.ones((100, 10)))).value == pytest.approx(1)


# Streams


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_streams_give_what_the_whole_gives(batch: int) -> None:
    x, logits, other = features(150), features(150, 10, seed=3), gathered(features(130, seed=1))
    whole = image_figures(gathered(x, logits), other)
    parts = image_figures(gathered(x, logits, batch), other)
    assert whole.keys() == parts.keys() == {"fid", "kid", "inception_score", "precision", "recall"} & METRICS.keys()
    for name, figure in whole.items():
        assert list(parts[name]) == pytest.approx(list(figure), rel=1e-9, abs=1e-12)


def test_moments_merge_and_part() -> None:
    x = features(60).astype(np.float64) + 1000
    one, other, whole = Moments.of(x[:20]), Moments.of(x[20:]), Moments.of(x)
    for found, expected in ((one.merged(other), whole), (whole.without(one), other)):
        assert found.count == expected.count
        assert found.mean == pytest.approx(expected.mean, rel=1e-12)
        assert found.scatter == pytest.approx(expected.scatter, abs=1e-8)
    assert whole.covariance == pytest.approx(np.cov(x, rowvar=False), abs=1e-9)


def test_figures_do_not_depend_on_the_order() -> None:
    x, logits, other = features(150), features(150, 10, seed=3), gathered(features(150, seed=1))
    order = np.random.default_rng(0).permutation(150)
    one, permuted = image_figures(gathered(x, logits), other), image_figures(gathered(x[order], logits[order]), other)
    for name, figure in one.items():
        assert permuted[name].value == pytest.approx(figure.value, rel=1e-9, abs=1e-12)


def test_of_many_images_a_fair_part_is_kept_at_the_same_places() -> None:
    x = np.arange(4000, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    found, again = (gathered(x + shift, batch=batch, kept=400).statistics() for shift, batch in ((0, 4000), (0.5, 33)))
    assert (found.features + 0.5 == again.features).all()
    kept = found.features[:, 0]
    assert len(set(kept.tolist())) == 400
    # Mean and spread of a uniform part, four standard errors wide.
    assert abs(kept.mean() - 1999.5) < 4 * 4000 / math.sqrt(12 * 400)
    assert found.count == 4000 and found.mean == pytest.approx([1999.5, 1999.5])


def test_memory_does_not_grow_with_the_images() -> None:
    def peak(batches: int) -> int:
        found = gathered(features(64, 64), kept=200)
        tracemalloc.start()
        for seed in range(batches):
            found.add_seen(Seen(features(64, 64, seed=seed)))
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(80) < 1.1 * peak(8)


def test_statistics_survive_the_disk_and_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    extractor, cache = extractor_of("fashion"), Cache(tmp_path)
    calls = []
    counted = Extractor(lambda x: calls.append(1) or x.flatten(1)[:, :5], "counted")
    pictures = images(40)
    first = statistics_of(pictures, counted, cache=cache)
    made = len(calls)
    again = statistics_of(pictures, counted, cache=cache)
    assert len(calls) == made
    assert (again.mean == first.mean).all() and (again.features == first.features).all() and again.count == 40

    statistics_of(pictures + 1e-3, counted, cache=cache)
    assert len(calls) > made, "another content"
    with_classes = statistics_of(pictures, extractor, cache=cache)
    kept = statistics_of(pictures, extractor, cache=cache)
    assert with_classes.classes and kept.classes and (kept.classes.probabilities == with_classes.classes.probabilities).all()

    for entry in tmp_path.glob("statistics-*"):
        content = bytearray(entry.read_bytes())
        content[-3] ^= 1
        entry.write_bytes(bytes(content))
    made = len(calls)
    with pytest.warns(UserWarning, match="is damaged .* made again"):
        found = statistics_of(pictures, counted, cache=cache)
    assert len(calls) > made and (found.covariance == first.covariance).all()


# Sources


def test_a_folder_an_array_and_a_file_of_the_same_images_are_the_same(tmp_path: Path) -> None:
    extractor = extractor_of("fashion")
    values = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    (tmp_path / "pictures").mkdir()
    for i, picture in enumerate(values):
        Image.fromarray(picture).convert("RGB" if i % 2 else "L").save(tmp_path / "pictures" / f"{i:03}.png")
    np.save(tmp_path / "a.npy", values[..., None])
    np.savez(tmp_path / "a.npz", values)
    sources = (
        tmp_path / "pictures",
        tmp_path / "a.npy",
        str(tmp_path / "a.npz"),
        values,
        torch.from_numpy(values)[:, None] / 127.5 - 1,
    )
    expected = statistics_of(sources[0], extractor)
    for source in sources[1:]:
        assert statistics_of(source, extractor).mean == pytest.approx(expected.mean, abs=1e-6)


def test_the_fields_own_file_gives_a_frechet_distance_alone(tmp_path: Path) -> None:
    x, y = features(100), features(120, seed=1)
    np.savez(tmp_path / "real.npz", mu=y.mean(0), sigma=np.cov(y, rowvar=False))
    real = statistics_of(tmp_path / "real.npz", flat())
    found = image_figures(gathered(x), real)
    assert set(found) == {"fid"}
    assert found["fid"].value == pytest.approx(image_figures(gathered(x), gathered(y))["fid"].value, rel=1e-5)
    assert found["fid"].low < found["fid"].value < found["fid"].high


# Intervals


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_cover_what_such_samples_give_on_average(paired: bool) -> None:
    """Nine in ten; those of precision and recall are wider, since balls hang together."""
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, ...]]] = {"fid": [], "kid": [], "precision": [], "recall": [], "inception_score": []}
    for _ in range(120):
        x = rng.standard_normal((80, 4))
        y = 0.9 * x + 0.5 * rng.standard_normal((80, 4)) if paired else 1.2 * rng.standard_normal((100, 4)) + 0.3
        logits = 2 * rng.standard_normal((80, 5))
        for name, figure in image_figures(gathered(x, logits), gathered(y), paired=paired).items():
            found[name].append(tuple(figure))
    for name, drawn in found.items():
        value, low, high = np.array(drawn).T
        covered = np.mean((low <= value.mean()) & (value.mean() <= high))
        assert 0.8 <= covered <= (1.0 if name in ("precision", "recall") else 0.98), name


def test_pairs_are_known_better_than_two_sets() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 5))
    y = x + 0.1 * rng.standard_normal((200, 5)) + 0.2
    pairs = image_figures(gathered(x), gathered(y), paired=True)["fid"]
    apart = image_figures(gathered(x), gathered(rng.standard_normal((200, 5)) + 0.2))["fid"]
    assert pairs.high / pairs.low < apart.high / apart.low


def test_a_part_that_is_kept_has_an_interval_for_all() -> None:
    """Its width falls with the number of images, not with that of the kept ones."""
    other = gathered(features(2000, seed=1, shift=0.2))
    all_kept, part = (image_figures(gathered(features(2000), kept=k), other)["fid"] for k in (2000, 400))
    assert part.value == all_kept.value
    assert 0.4 < math.log(part.high / part.low) / math.log(all_kept.high / all_kept.low) < 2.5


def test_too_few_samples_have_figures_without_intervals() -> None:
    found = image_figures(gathered(features(12), features(12, 3)), gathered(features(14, seed=1)))
    assert all(math.isfinite(figure.value) for figure in found.values())
    assert all(math.isnan(found[name].low) for name in ("fid", "kid", "inception_score"))


# Pairs


def test_figures_of_pairs() -> None:
    extractor = extractor_of("fashion")
    reference = images(64)
    far = reference.clone()
    far[:32] += 0.5
    found = Paired()
    for first in range(0, 64, 16):
        rows = slice(first, first + 16)
        found.add(far[rows], reference[rows], extractor(far[rows]), extractor(reference[rows]))
    figures = found.figures()
    assert set(figures) == {"psnr", "feature_distance", "same_class"} <= METRICS.keys()
    mse = ((far.clamp(-1, 1) - reference) ** 2).flatten(1).mean(1).double()
    expected = torch.where(mse > 0, 10 * torch.log10(4 / mse), torch.tensor(CLOSEST, dtype=torch.float64)).mean()
    assert figures["psnr"].value == pytest.approx(float(expected), rel=1e-5)
    one, other = extractor(far), extractor(reference)
    assert figures["feature_distance"].value == pytest.approx(((one.features - other.features) ** 2).mean(), rel=1e-4)
    assert figures["same_class"].value == (one.logits.argmax(1) == other.logits.argmax(1)).mean()
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())


def test_all_in_the_same_class_is_not_certain() -> None:
    seen = Seen(np.zeros((30, 2), np.float32), np.eye(3, dtype=np.float32)[np.arange(30) % 3])
    found = Paired()
    found.add(images(30), images(30), seen, seen)
    same = found.figures()["same_class"]
    assert same.value == same.high == 1 and 0.85 < same.low < 0.95


def test_pairs_of_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 1, 28, 28\), the reference's \(4, 1, 28, 28\)"):
        Paired().add(images(3), images(4))


# Extractors


def test_images_elsewhere_are_looked_at() -> None:
    device = FakeDevice()
    with device:
        there = device.put(images(4))
        assert (extractor_of("fashion")(there).features == extractor_of("fashion")(images(4)).features).all()
        assert (flat()(there).features == flat()(images(4)).features).all()
        found = Paired()
        found.add(there, images(4, seed=1))
        found.add(images(4), device.put(images(4, seed=1)))
    psnr = np.concatenate(found._parts["psnr"])
    assert (psnr[:4] == psnr[4:]).all()


def test_the_bundled_extractor_takes_any_precision_and_cuts_what_lies_outside() -> None:
    extractor = extractor_of("fashion")
    seen = extractor(images(5))
    assert seen.features.shape == (5, 128) and seen.features.dtype == np.float32
    assert seen.logits is not None and seen.logits.shape == (5, 10)
    assert extractor(images(5).double()).features == pytest.approx(seen.features, abs=1e-5)
    assert extractor(images(5).half()).features == pytest.approx(seen.features, abs=0.05)
    over = images(5) * 1.2
    assert (extractor(over).features == extractor(over.clamp(-1, 1)).features).all()


def test_many_images_are_looked_at_in_parts() -> None:
    sizes = []
    extractor = Extractor(lambda x: sizes.append(len(x)) or x.flatten(1), "sizes", at_once=4)
    assert extractor(images(10)).features.shape == (10, 784)
    assert sizes == [4, 4, 2]


def test_a_module_is_evaluated_in_its_own_precision_and_left_as_it_was() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 3)).double().train()
    extractor = extractor_of(net)
    assert (extractor(images(4)).features == extractor(images(4)).features).all()
    assert all(module.training for module in net.modules())


def test_digests_tell_extractors_apart() -> None:
    shape = (1, 4, 4)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2)]
    functions = [extractor_of(make) for make in (*nets, lambda x: x.flatten(1), lambda x: 2 * x.flatten(1))]
    digests = [extractor.digest(shape) for extractor in functions]
    assert len(set(digests)) == 4
    assert digests == [extractor_of(extractor._function).digest(shape) for extractor in functions]


def test_a_function_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_features.py").write_text("def means(images):\n    return images.mean((2, 3))\n")
    monkeypatch.chdir(tmp_path)
    assert extractor_of("my_features:means")(images(3, (3, 4, 4))).features.shape == (3, 3)
    with pytest.raises(ValueError, match=r"my_features:none cannot be imported: AttributeError"):
        extractor_of("my_features:none")


def test_grey_images_are_repeated_for_colours_and_colours_refused_for_grey() -> None:
    colours = Extractor(lambda x: x.mean((2, 3)), "colours", channels=3)
    assert colours(images(2)).features.shape == (2, 3)
    with pytest.raises(ValueError, match="takes images with 1 channels, got 3"):
        extractor_of("fashion")(images(2, (3, 28, 28)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((images(3) * 127.5 + 127.5).byte(), "floating point in .* got torch.uint8"),
        (images(3) * 127.5 + 127.5, r"must be in \[-1, 1\], got values from .* images / 127.5 - 1"),
        (images(3)[0], r"shape \(n, channels, height, width\), got \(1, 28, 28\)"),
        (images(3).index_fill(0, torch.tensor([1]), math.nan), "images has NaN values in 1 of 3 rows, first in row 1"),
        (images(3)[:0], "no values"),
        (images(3, (1, 32, 32)), r"takes images \(batch, 1, 28, 28\)"),
        (images(3).numpy(), "must be a tensor, got ndarray"),
    ],
)
def test_images_that_are_none_are_refused(wrong: Tensor, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as found:
        extractor_of("fashion")(wrong)
    assert "\n" not in str(found.value)


def test_images_far_outside_are_cut_and_that_is_said_once() -> None:
    extractor = extractor_of("fashion")
    with pytest.warns(UserWarning, match=r"% of the values lie beyond 1.5: what lies outside is cut"):
        extractor(images(3) * 4)
    with pytest.warns(UserWarning, match=r"no value below 0: \[0, 1\] is brought there"):
        extractor(images(3).abs())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(images(3) * 5)
        extractor(images(3) * 1.4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, r"must return features \(n, d\), a row for each of the 3 images, got \(3, 1, 28, 28\)"),
        (lambda x: x.flatten(), r"a row for each of the 3 images, got \(2352,\)"),
        (lambda x: x.flatten(1)[:2], r"a row for each of the 3 images, got \(2, 784\)"),
        (lambda x: (x.flatten(1), x.sum()), r"must return logits \(n, d\)"),
        (lambda x: (x.flatten(1),) * 3, "or a pair .* got 3 things"),
        (lambda x: "features", "must return features as a tensor"),
        (lambda x: x.flatten(1) * math.inf, "of the extractor <lambda> has infinite values|has NaN values"),
    ],
)
def test_extractors_of_a_wrong_shape_are_refused(function: object, message: str) -> None:
    extractor = Extractor(function, "<lambda>")  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match=message) as found:
        extractor(images(3))
    assert "\n" not in str(found.value)


def test_what_is_no_extractor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no feature extractor: 'inceptoin'; there are 'fashion'"):
        extractor_of("inceptoin")
    with pytest.raises(ValueError, match="no feature extractor: 3"):
        extractor_of(3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"none.pth does not exist"):
        extractor_of(tmp_path / "none.pth")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="evil.pth cannot be read .* weights are tensors alone"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor_of(tmp_path / "evil.pth")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match="pip install torch-fidelity"):
        extractor_of(tmp_path / "other.pth")


# What is refused, and what is said


def test_too_few_samples_for_a_covariance_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        image_figures(gathered(features(1)), gathered(features(9)))
    with pytest.raises(ValueError, match="needs 2 images or more, got 0"):
        Gathering(flat()).statistics()
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        statistics_of(images(1), extractor_of("fashion"))


def test_few_samples_are_said() -> None:
    assert "covariance is singular" in enough(128, 128)
    assert "biased up" in enough(129, 128) and "10,000" in enough(129, 128)
    assert enough(10_000, 2048) == ""
    with pytest.warns(FewSamples, match="30 samples: a Frechet distance is biased up"):
        image_figures(gathered(features(30)), gathered(features(40)))


def test_features_of_different_extractors_are_not_compared() -> None:
    with pytest.raises(ValueError, match="images have 6 features, what they are compared with 5"):
        image_figures(gathered(features(30)), gathered(features(30, 5)))
    one, other = Gathering(flat()), Gathering(extractor_of(lambda x: x.flatten(1) ** 2))
    for each in (one, other):
        each.add(images(4, (1, 2, 2)))
    with pytest.raises(ValueError, match="by different extractors"):
        image_figures(one, other)
    with pytest.raises(ValueError, match="as many images on either side, got 30 and 31"):
        image_figures(gathered(features(30)), gathered(features(31)), paired=True)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no archive"), "cannot be read"),
        (lambda path: np.savez(path, mu=np.zeros(3), sigma=np.eye(2)), r"have shapes \(3,\) and \(2, 2\)"),
        (lambda path: np.savez(path, mu=np.zeros(2), sigma=np.array([[1, 5], [0, 1]])), "symmetric"),
        (lambda path: np.savez(path, mu=np.full(2, np.nan), sigma=np.eye(2)), "finite"),
        (lambda path: np.savez(path, a=np.zeros(3), b=np.eye(2)), "must have mu and sigma, or one array of images, got a, b"),
        (lambda path: np.savez(path, np.array([print], object)), "cannot be read"),
        (lambda path: np.savez(path, np.zeros((1, 28, 28), np.uint8)), "needs 2 images or more, got 1"),
        (lambda path: np.savez(path, np.zeros((9, 28), np.uint8)), r"have shape \(n, channels, height, width\), got \(9, 28\)"),
        (lambda path: np.savez(path, np.zeros((9, 1, 28, 28), np.uint16)), "floating point"),
    ],
)
def test_damaged_and_wrong_files_are_refused(write: object, message: str, tmp_path: Path) -> None:
    write(tmp_path / "real.npz")  # type: ignore[operator]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as found:
        statistics_of(tmp_path / "real.npz", extractor_of("fashion"))
    assert "\n" not in str(found.value)


def test_folders_of_no_pictures_are_refused(tmp_path: Path) -> None:
    extractor = extractor_of("fashion")
    with pytest.raises(FileNotFoundError, match="has no pictures"):
        statistics_of(tmp_path, extractor)
    for name, size in (("a.png", 28), ("b.png", 30)):
        Image.new("L", (size, 28)).save(tmp_path / name)
    with pytest.raises(ValueError, match="b.png has 30 x 28 pixels, and a.png 28 x 28: bring all pictures to one size"):
        statistics_of(tmp_path, extractor)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="b.png cannot be read as a picture"):
        statistics_of(tmp_path, extractor)


def test_statistics_that_a_file_tells_nothing_more_of_are_not_kept() -> None:
    with pytest.raises(ValueError, match="in a file already"):
        Statistics(np.zeros(2), np.eye(2), None, np.empty((0, 2), np.float32)).to_tensors()
