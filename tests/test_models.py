"""The bundled networks: the plain UNet against diffusers', the wrappers, the registry, the classifier."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dode
from dode import models
from dode.loading import load
from dode.models import (
    BUNDLED,
    ClassLabels,
    ConcatChannels,
    EDMPreconditioned,
    MeanHalf,
    SpaceToDepth,
    TimestepKeyword,
    UNet,
    fashion_classifier,
)
from dode.models.diffusers import config_of
from dode.models.traits import traits_of
from dode.noise import standard_noise

CONFIGS = {
    "as bundled": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 16,
        "norm_num_groups": 8,
        "num_class_embeds": 11,
    },
    "as ddpm-cifar10": {
        "block_out_channels": [8, 16, 24],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": None,
        "norm_num_groups": 4,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
    "attention everywhere, odd width": {
        "in_channels": 1,
        "out_channels": 2,
        "block_out_channels": [9, 18],
        "layers_per_block": 3,
        "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
        "attention_head_dim": 9,
        "norm_num_groups": 3,
        "time_embedding_dim": 20,
        "dropout": 0.5,
    },
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CONFIGS)
def test_unet_is_that_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(**CONFIGS[name]).eval()
    ours = UNet.from_config(theirs.config).eval()
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())

    x = torch.randn(3, ours.config["in_channels"], 8, 12)
    t = torch.tensor([0.0, 17.25, 999.0])
    labels = torch.tensor([0, 10, 3]) if "num_class_embeds" in CONFIGS[name] else None
    with torch.no_grad():
        expected = theirs(x, t, class_labels=labels).sample
        found = ours(x, t, class_labels=labels)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        # One time for all, as a number.
        expected = theirs(x, torch.full((3,), 5.5), class_labels=labels).sample
        torch.testing.assert_close(ours(x, 5.5, class_labels=labels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time_embedding_type", "fourier"),
        ("resnet_time_scale_shift", "scale_shift"),
        ("act_fn", "gelu"),
        ("class_embed_type", "timestep"),
        ("norm_num_groups", None),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("a_key_of_the_future", 1),
    ],
)
def test_unet_refuses_what_it_does_not_implement(key, value):
    with pytest.raises(ValueError, match=key):
        UNet.from_config(CONFIGS["as bundled"] | {key: value})


def test_unet_wants_labels_exactly_if_class_conditional():
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="must be given"):
        UNet.from_config(CONFIGS["as bundled"])(x, 0)
    plain = UNet.from_config(CONFIGS["as bundled"] | {"num_class_embeds": None})
    with pytest.raises(ValueError, match="no class_labels"):
        plain(x, 0, torch.tensor([1]))


def test_space_to_depth_only_moves_pixels():
    x = torch.randn(2, 3, 8, 12)
    seen = []

    def net(y, t, **cond):
        seen.append((y, t, cond))
        return y

    class Net(nn.Module):
        forward = staticmethod(net)

    assert torch.equal(SpaceToDepth(Net(), 2)(x, 3.0, key=1), x)
    ((given, t, cond),) = seen
    assert torch.equal(given, F.pixel_unshuffle(x, 2))
    assert (t, cond) == (3.0, {"key": 1})


class _Labels(nn.Module):
    """Returns the labels that it is given, as a batch of one-pixel images."""

    def forward(self, x, t, class_labels):
        assert class_labels.dtype == torch.long
        assert class_labels.shape == (len(x),)
        return class_labels.float().reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("given", [2, torch.tensor(2), torch.tensor([2]), torch.tensor([2, 2, 2], dtype=torch.int32), None])
def test_class_labels_may_be_a_number_a_tensor_or_none(given):
    net = ClassLabels(_Labels(), classes=4, null_class=2)
    assert net(torch.zeros(3, 1, 1, 1), 0, class_labels=given).flatten().tolist() == [2, 2, 2]


@pytest.mark.parametrize("given", [4, -1, torch.tensor([0, 4, 0]), torch.tensor([-1, 0, 0]), torch.tensor([0.0, 1.0, 2.0])])
def test_class_labels_out_of_range_are_refused_every_time(given):
    net = ClassLabels(_Labels(), classes=4)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"class labels go from 0 to 3|must be integers"):
            net(torch.zeros(3, 1, 1, 1), 0, class_labels=given)


SAME = ([0, 3, 1], (0, 3, 1), np.array([0, 3, 1]), np.array([0, 3, 1], np.uint16), torch.tensor([0, 3, 1], dtype=torch.uint8))


@pytest.mark.parametrize("given", [*SAME, [torch.tensor(0), torch.tensor(3), torch.tensor(1)]])
def test_class_labels_may_be_any_sequence_of_integers(given):
    net = ClassLabels(_Labels(), classes=4, null_class=2)
    assert net(torch.zeros(3, 1, 1, 1), 0, class_labels=given).flatten().tolist() == [0, 3, 1]


@pytest.mark.parametrize("given", [range(3), np.int64(2), 2, np.array(2)])
def test_class_labels_may_be_a_range_or_a_number_of_numpy(given):
    expected = [0, 1, 2] if isinstance(given, range) else [2, 2, 2]
    assert ClassLabels(_Labels(), classes=4)(torch.zeros(3, 1, 1, 1), 0, class_labels=given).flatten().tolist() == expected


@pytest.mark.parametrize(
    "given", [2.0, "shirt", True, [0.0, 1.0, 2.0], ["a", "b", "c"], [[0], [1, 2]], {}, torch.zeros(3).bool()]
)
def test_class_labels_that_are_no_integers_are_refused_in_one_line(given):
    with pytest.raises(ValueError, match="class_labels must be integers") as caught:
        ClassLabels(_Labels(), classes=4)(torch.zeros(3, 1, 1, 1), 0, class_labels=given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[1, 2, 0], np.array([1, 2, 0]), torch.tensor([1, 2, 0])])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_class_labels_say_the_same_with_and_without_guidance(labels, scale):
    denoiser = load("fashion", guidance_scale=scale)
    x = standard_noise(0, 3, denoiser.shape)
    expected = torch.cat([denoiser(x[i : i + 1], 600.0, class_labels=label) for i, label in enumerate((1, 2, 0))])
    torch.testing.assert_close(denoiser(x, 600.0, class_labels=labels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "given", [None, torch.tensor([1, 2]), [1, 2], range(4), torch.zeros(3, 1, dtype=torch.long), [[1], [2], [0]]]
)
def test_class_labels_must_be_one_a_sample(given):
    with pytest.raises(ValueError, match="class_labels"):
        ClassLabels(_Labels(), classes=4)(torch.zeros(3, 1, 1, 1), 0, class_labels=given)


def test_mean_half_and_timestep_keyword():
    class Net(nn.Module):
        def forward(self, x, other=None, timestep=None):
            assert other is None
            return (torch.cat([x * timestep, x], dim=1),)

    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(MeanHalf(TimestepKeyword(Net()))(x, 2.0), 2 * x)


class _Sum(nn.Module):
    """The sum of all channels and t, in as many channels as a sample has."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x, t):
        return (x.sum(1, keepdim=True) + t.reshape(-1, 1, 1, 1)).expand(-1, self.channels, -1, -1)


@pytest.mark.parametrize("rows", [1, 3])
def test_channels_beside_the_sample_are_behind_it(rows):
    seen = []

    class Net(nn.Module):
        def forward(self, x, t, **cond):
            seen.append((x, cond))
            return x[:, :2]

    x, beside = torch.randn(3, 2, 4, 5), torch.randn(rows, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(ConcatChannels(Net(), 3)(x, 0, concat=beside, word=1), x)
    assert torch.equal(seen[0][0], torch.cat([x, beside.float().expand(3, -1, -1, -1)], dim=1))
    assert seen[0][1] == {"word": 1}


@pytest.mark.parametrize("given", [None, 3, torch.zeros(3, 2, 4, 5), torch.zeros(3, 3, 5, 4), torch.zeros(2, 3, 4, 5)])
def test_channels_beside_the_sample_are_asked_for_in_one_line(given):
    with pytest.raises(ValueError, match=r"beside the sample.*\(3, 3, 4, 5\)|\(3, 3, 4, 5\).*beside the sample") as caught:
        ConcatChannels(_Sum(2), 3)(torch.zeros(3, 2, 4, 5), torch.zeros(3), concat=given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_channels_beside_the_sample_go_through_sampling(guidance, batch_size):
    """Each sample with its own: as one at a time."""
    net = ConcatChannels(_Sum(2), 3)
    options = {"guidance_scale": guidance, "null_condition": {"concat": torch.zeros(1, 3, 4, 4)}}
    denoiser = dode.Denoiser(
        net, dode.schedules.Flow(time_scale=1.0), "flow", shape=(2, 4, 4), batch_size=batch_size, **options
    )
    noise, beside = standard_noise(0, 3, denoiser.shape), torch.randn(3, 3, 4, 4)
    tableau = dode.solver("ddim").tableau(denoiser.schedule, 3)
    together = dode.sample(denoiser, tableau, noise, concat=beside)
    for i in range(3):
        alone = dode.sample(denoiser, tableau, noise[i : i + 1], concat=beside[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_edm_scalings_give_the_mean_of_gaussian_data():
    """For data N(0, s^2) with sigma_data = s the best F is 0: D = s^2 x / (s^2 + sigma^2)."""

    class Zero(nn.Module):
        def forward(self, x, t):
            torch.testing.assert_close(x.std(dim=1), torch.ones(len(x)), atol=0.1, rtol=0)
            torch.testing.assert_close(t, torch.log(torch.tensor([0.1, 10.0])) / 4)
            return torch.zeros_like(x)

    sigma = torch.tensor([0.1, 10.0])
    x = 0.7 * torch.randn(2, 5000) + sigma[:, None] * torch.randn(2, 5000)
    D = EDMPreconditioned(Zero(), 0.7)(x, sigma)
    torch.testing.assert_close(D, x * 0.49 / (0.49 + sigma[:, None] ** 2))


def test_edm_scalings_keep_half_precision():
    class Same(nn.Module):
        def forward(self, x, t):
            assert (x.dtype, t.dtype) == (torch.float16, torch.float32)
            return x

    x = torch.randn(3, 4)
    sigma = torch.tensor([0.002, 1.0, 700.0])
    half = EDMPreconditioned(Same(), 1.0, negative=True)((x * sigma[:, None]).half(), sigma)
    exact = x * sigma[:, None] * (1 - sigma[:, None]) / (1 + sigma[:, None] ** 2)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=2e-3, rtol=2e-3)


TRAITS = {
    "plain": ({"in_channels": 4, "out_channels": 4}, {}, (4, 0, False)),
    "a variance": ({"in_channels": 3, "out_channels": 6}, {}, (3, 0, True)),
    "inpainting": ({"in_channels": 9, "out_channels": 4}, {}, (4, 5, False)),
    "instructions": ({"in_channels": 8, "out_channels": 4}, {}, (4, 4, False)),
    "upscaling": ({"in_channels": 7, "out_channels": 4}, {}, (4, 3, False)),
    "upscaling with a variance": ({"in_channels": 6, "out_channels": 6}, {"learned_variance": True}, (3, 3, True)),
    "the same, by shape": ({"in_channels": 6, "out_channels": 6}, {"shape": (3, 8, 8)}, (3, 3, True)),
    "instructions with a variance": ({"in_channels": 8, "out_channels": 8}, {"learned_variance": True}, (4, 4, True)),
    "no variance after all": (
        {"in_channels": 8, "out_channels": 8},
        {"learned_variance": True, "shape": (8, 8, 8)},
        (8, 0, False),
    ),
    "more out than in": ({"in_channels": 7, "out_channels": 8}, {"shape": (4, 8, 8)}, (4, 3, True)),
}


@pytest.mark.parametrize("name", TRAITS)
@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
def test_what_a_sample_is_follows_from_the_channels(name, kind):
    config, known, expected = TRAITS[name]
    traits = traits_of({"_class_name": kind, "sample_size": 8, **config}, **known)
    assert (traits.channels, traits.beside, traits.variance) == expected
    assert traits.shape() == (expected[0], 8, 8)


@pytest.mark.parametrize(
    ("config", "known", "line"),
    [
        ({"in_channels": 7, "out_channels": 8}, {}, r"give shape=\(channels, height, width\)"),
        ({"in_channels": 4, "out_channels": 5}, {}, "give a module around it"),
        ({"in_channels": 4, "out_channels": 4}, {"shape": (3, 8, 8)}, "takes 4 channels and gives 4, got a sample of 3"),
        ({}, {"null_class": 2}, "takes no class labels"),
        ({"num_class_embeds": 3}, {"null_class": 3}, r"null_class must lie in 0 \.\. 2"),
    ],
)
def test_channels_and_classes_that_do_not_fit_are_refused(config, known, line):
    with pytest.raises(ValueError, match=line):
        traits_of({"_class_name": "UNet2DModel", **config}, **known)


def test_null_class_of_a_dit_is_behind_its_classes():
    config = {"_class_name": "DiTTransformer2DModel", "num_embeds_ada_norm": 10}
    assert traits_of(config).null_condition == {"class_labels": 10}
    assert traits_of(config).classes == 11
    assert traits_of(config, null_class=3).null_condition == {"class_labels": 3}
    assert traits_of(config).shape() == (4, 32, 32)


def test_renamed_classes_are_found_by_the_rule_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.model_loading_utils import _fetch_remapped_cls_from_config

    for norm in ("ada_norm_zero", "ada_norm_single"):
        config = {"_class_name": "Transformer2DModel", "norm_type": norm}
        theirs = _fetch_remapped_cls_from_config(config, diffusers.Transformer2DModel)
        assert traits_of(config).kind == theirs.__name__
    with pytest.raises(ValueError, match=r"Transformer2DModel with norm_type 'layer_norm'.*ada_norm_zero"):
        traits_of({"_class_name": "Transformer2DModel", "norm_type": "layer_norm"})


def test_networks_in_wrappers_are_looked_through():
    net = UNet.from_config(CONFIGS["as bundled"])
    averaged = torch.optim.swa_utils.AveragedModel(net)
    for wrapped in (net, torch.nn.DataParallel(net), averaged, torch.compile(net, backend="eager")):
        assert config_of(wrapped)["num_class_embeds"] == 11

    class Mine(nn.Module):
        """A network whose own part is named module."""

        def __init__(self):
            super().__init__()
            self.module = net

    assert config_of(Mine()) is None


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_folder_is_complete(name):
    model = BUNDLED[name]
    files = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "dode.json", "README.md"]
    for file in (*files, "unet/diffusion_pytorch_model.safetensors"):
        assert (model.folder / file).is_file(), file
    assert model.name == name
    assert model.licence
    assert "\n" not in model.description
    content = json.loads((model.folder / "dode.json").read_text())
    assert model.classes == tuple(content.get("classes", ()))
    assert len(model.classes) == content.get("null_class", 0)
    assert sum(file.stat().st_size for file in model.folder.rglob("*")) < 6_000_000


@pytest.mark.parametrize("name", [name for name, model in BUNDLED.items() if model.classes])
def test_bundled_networks_draw_what_is_asked_for(name):
    """The classifier recognises most of a small sample: a wrong layout, schedule or label order would leave a tenth."""
    import dode
    from dode.noise import standard_noise

    denoiser = load(name)
    labels = torch.arange(10).repeat(3)
    tableau = dode.solver("deis").tableau(denoiser.schedule, nfe=10)
    images = dode.sample(denoiser, tableau, standard_noise(1, 30, denoiser.shape), class_labels=labels)
    assert images.shape == (30, 1, 28, 28)
    found = fashion_classifier()(images.clamp(-1, 1)).argmax(1)
    assert (found == labels).float().mean() > 0.7


@pytest.mark.parametrize(("name", "t"), [("fashion", 500.0), ("fashion-edm", 1.0)])
def test_fashion_guidance_has_its_null_class(name, t):
    denoiser = load(name, guidance_scale=0.0)
    x = torch.randn(2, 1, 28, 28)
    # At scale 0 the null class alone speaks; the network takes it where no label is given.
    guided = denoiser(x, t, class_labels=3)
    torch.testing.assert_close(guided, load(name)(x, t), atol=1e-5, rtol=1e-5)


def test_fashion_edm_is_what_it_was_trained_as():
    """EDM's schedule and scalings: at a small sigma D is nearly the state, at the largest it hardly depends on it."""
    denoiser = load("fashion-edm")
    assert denoiser.prediction == "edm"
    assert (denoiser.schedule.t_max, denoiser.schedule.t_min) == (80.0, 0.002)
    noise = standard_noise(2, 2, denoiser.shape)
    image = denoiser(80.0 * noise, 80.0, class_labels=[3, 3])
    # Measured: 0.02 of pixels that vary by 0.5, and 0.02.
    assert float((image[0] - image[1]).square().mean()) < 0.05
    torch.testing.assert_close(denoiser(image, 0.002, class_labels=[3, 3]), image, atol=0.05, rtol=0)


def test_classifier_shapes_and_determinism():
    classifier = fashion_classifier()
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    x = torch.rand(4, 1, 28, 28) * 2 - 1
    features = classifier.features(x)
    assert features.shape == (4, 128)
    assert (features >= 0).all()
    torch.testing.assert_close(classifier(x), classifier.head(features))
    torch.testing.assert_close(classifier(x[:1]), classifier(x)[:1])
    with pytest.raises(ValueError, match="28"):
        classifier(torch.zeros(1, 3, 28, 28))


def test_fashion_flow_draws_clothes_of_many_kinds():
    denoiser = load("fashion-flow")
    assert denoiser.prediction == "flow"
    noise = standard_noise(0, 48, denoiser.shape)
    images = dode.sample(denoiser, dode.solver("deis").tableau(denoiser.schedule, 12), noise)
    likelihoods = fashion_classifier()(images.clamp(-1, 1)).softmax(1)
    # Measured: 0.76, and all ten kinds; noise is taken for one or two kinds.
    assert likelihoods.amax(1).mean() > 0.7
    assert len(likelihoods.argmax(1).unique()) >= 8


def test_classifier_file_is_small():
    path = BUNDLED["fashion"].folder.parent / "fashion_classifier.safetensors"
    assert path.stat().st_size <= 1_000_000


def test_loading_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    fashion_classifier()
    load("fashion")
    assert torch.equal(torch.get_rng_state(), before)


def test_every_public_name_exists():
    for name in models.__all__:
        assert hasattr(models, name)
