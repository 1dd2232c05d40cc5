"""The bundled networks: the plain UNet against diffusers', the wrappers, the registry, the classifier."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dode
from dode import models
from dode.loading import load
from dode.models import BUNDLED, ClassLabels, MeanHalf, SpaceToDepth, TimestepKeyword, UNet, fashion_classifier
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


@pytest.mark.parametrize("given", [None, torch.tensor([1, 2]), torch.zeros(3, 1, dtype=torch.long)])
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


def test_fashion_draws_what_is_asked_for():
    """The classifier recognises most of a small sample: a wrong layout, schedule or label order would leave a tenth."""
    import dode
    from dode.noise import standard_noise

    denoiser = load("fashion")
    labels = torch.arange(10).repeat(3)
    tableau = dode.solver("deis").tableau(denoiser.schedule, nfe=10)
    images = dode.sample(denoiser, tableau, standard_noise(1, 30, denoiser.shape), class_labels=labels)
    assert images.shape == (30, 1, 28, 28)
    found = fashion_classifier()(images.clamp(-1, 1)).argmax(1)
    assert (found == labels).float().mean() > 0.7


def test_fashion_guidance_has_its_null_class():
    denoiser = load("fashion", guidance_scale=0.0)
    x = torch.randn(2, 1, 28, 28)
    # At scale 0 the null class alone speaks; the network takes it where no label is given.
    guided = denoiser(x, 500.0, class_labels=3)
    torch.testing.assert_close(guided, load("fashion")(x, 500.0), atol=1e-5, rtol=1e-5)


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
