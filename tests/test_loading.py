"""`load`: what it accepts, what it makes of it, and how it says no."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_unet import CONFIG
from torch import nn

import dode
from dode.loading import load
from dode.models import UNet
from dode.schedules import VP, Flow

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "clip_sample": True,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path):
    """A pipeline folder as diffusers writes it, half precision, with dode.json."""
    net = UNet.from_config(CONFIG)
    write_json(tmp_path / "unet" / "config.json", CONFIG)
    write_json(tmp_path / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(tmp_path / "dode.json", {"space_to_depth": 2, "null_class": 5, "classes": list("abcde")})
    save_file(net.half().state_dict(), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    return tmp_path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def images(shape=(1, 16, 16)):
    return torch.randn(3, *shape)


def test_folder(folder):
    denoiser = load(folder)
    assert denoiser.shape == (1, 16, 16)
    assert denoiser.dtype == torch.float32
    assert denoiser.prediction == "epsilon"
    assert denoiser.null_condition == {"class_labels": 5}
    assert denoiser.name == folder.name
    assert denoiser.clip is None
    assert denoiser.schedule.fingerprint == VP.linear().fingerprint
    assert not any(p.requires_grad for p in denoiser.net.parameters())
    D = denoiser(images(), 500.0, class_labels=torch.tensor([0, 5, 2]))
    assert D.shape == (3, 1, 16, 16)
    assert torch.isfinite(D).all()


def test_folder_as_text_and_options(folder):
    denoiser = load(str(folder), guidance_scale=2.0, clip=1.0, batch_size=2, dtype=torch.float64, name="mine")
    assert (denoiser.guidance_scale, denoiser.clip, denoiser.batch_size, denoiser.name) == (2.0, 1.0, 2, "mine")
    assert denoiser.dtype == torch.float64
    with pytest.raises(ValueError, match="guidance_scale"):
        load(folder, guidance=2.0)


def test_folder_gives_what_diffusers_gives(folder):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel.from_pretrained(folder / "unet", local_files_only=True).float().eval()
    x, labels = images(), torch.tensor([0, 5, 2])
    with torch.no_grad():
        small = torch.nn.functional.pixel_unshuffle(x, 2)
        eps = torch.nn.functional.pixel_shuffle(theirs(small, torch.full((3,), 300.0), class_labels=labels).sample, 2)
    denoiser = load(folder)
    alpha, sigma = denoiser.schedule.alpha(300.0), denoiser.schedule.sigma(300.0)
    expected = (x - float(sigma) * eps) / float(alpha)
    torch.testing.assert_close(denoiser(x, 300.0, class_labels=labels), expected, atol=1e-5, rtol=1e-5)


def test_bare_network_folder(folder):
    with pytest.raises(ValueError, match="give schedule"):
        load(folder / "unet")
    denoiser = load(folder / "unet", schedule=VP.squared_cosine(), prediction="v")
    assert denoiser.shape == (4, 8, 8)
    assert denoiser.prediction == "v"
    # Without dode.json nothing says that a class is the null class.
    assert denoiser.null_condition is None
    with pytest.raises(ValueError, match="class_labels"):
        denoiser(images((4, 8, 8)), 1.0)
    assert load(folder / "unet", schedule=Flow()).prediction == "flow"


def test_network_that_only_diffusers_implements(folder):
    diffusers = pytest.importorskip("diffusers")
    config = {key: value for key, value in CONFIG.items() if key != "_class_name"}
    net = diffusers.UNet2DModel(**config | {"resnet_time_scale_shift": "scale_shift", "out_channels": 8})
    net.save_pretrained(folder / "unet")
    denoiser = load(folder)
    assert denoiser(images(), 3.5).shape == (3, 1, 16, 16)
    assert any(type(module).__name__ == "UNet2DModel" for module in denoiser.net.modules())
    # Twice the output channels: a mean and a variance.
    with torch.no_grad():
        N = net.eval()(torch.zeros(1, 4, 8, 8), 7, class_labels=torch.tensor([5])).sample[:, :4]
    alpha, sigma = float(denoiser.schedule.alpha(7.0)), float(denoiser.schedule.sigma(7.0))
    expected = -sigma / alpha * torch.nn.functional.pixel_shuffle(N, 2)
    torch.testing.assert_close(denoiser(torch.zeros(1, 1, 16, 16), 7.0), expected)


def test_pipeline_object(folder):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet", local_files_only=True)
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    denoiser = load(diffusers.DDIMPipeline(unet, scheduler))
    assert (denoiser.prediction, denoiser.shape, denoiser.null_condition) == ("v", (4, 8, 8), None)
    assert denoiser(images((4, 8, 8)), 9.0, class_labels=1).shape == (3, 4, 8, 8)


def test_text_conditioned_unet():
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    denoiser = load(net, schedule=VP.scaled_linear())
    text = torch.randn(3, 5, 6)
    assert denoiser(images((4, 8, 8)), 20.0, encoder_hidden_states=text).shape == (3, 4, 8, 8)


def test_transformer_gets_its_time_by_name(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=6,
        caption_projection_dim=16,
        pooled_projection_dim=7,
        pos_embed_max_size=8,
    )
    net.save_pretrained(tmp_path / "transformer")
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "scheduler")
    denoiser = load(tmp_path)
    assert isinstance(denoiser.schedule, Flow)
    assert (denoiser.schedule.shift, denoiser.prediction) == (3.0, "flow")
    cond = {"encoder_hidden_states": torch.randn(3, 5, 6), "pooled_projections": torch.randn(3, 7)}
    assert denoiser(images((4, 8, 8)), 250.0, **cond).shape == (3, 4, 8, 8)


def test_own_network_and_function():
    class Zero(nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    assert load(Zero(), schedule=VP.linear(), shape=(2,)).shape == (2,)
    assert load(lambda x, t: x, schedule=Flow(), prediction="sample").prediction == "sample"
    with pytest.raises(ValueError, match="Zero has no scheduler"):
        load(Zero())
    with pytest.raises(TypeError, match="int"):
        load(3)


def test_denoiser_passes_through():
    denoiser = dode.Denoiser(lambda x, t: x, VP.linear())
    assert load(denoiser, clip=1.0).clip == 1.0


MODULE = """
import dode

def make():
    return dode.Denoiser(lambda x, t: x, dode.schedules.VP.linear(), name="made")

def wrong():
    return 3

def fails():
    raise RuntimeError("no luck")
"""


def test_function_reference(tmp_path, monkeypatch):
    (tmp_path / "module_for_test_loading.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert load("module_for_test_loading:make", batch_size=3).name == "made"
    assert sys.path == path
    for reference, message in {
        "module_for_test_loading:wrong": "must return a dode.Denoiser or a pipeline of diffusers, got int",
        "module_for_test_loading:fails": "RuntimeError: no luck",
        "module_for_test_loading:absent": "absent",
        "sys:exit": "sys:exit failed: SystemExit",
        "module_of_nobody:make": "module_of_nobody",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            load(reference)
        assert "\n" not in str(caught.value)


def test_unknown_names_and_places(tmp_path, folder):
    with pytest.raises(ValueError, match=r"did you mean 'fashion'.*folder"):
        load("fashon")
    with pytest.raises(FileNotFoundError, match="not downloaded"):
        load("somebody/some-network")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match="is a file"):
        load(folder / "dode.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"unet/config\.json"):
        load(tmp_path / "empty")


def test_pickled_weights_are_refused_unless_asked_for(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    expected = load(folder)(torch.ones(1, 1, 16, 16), 100.0, class_labels=1)
    net = load(folder).net.net.net
    weights.unlink()
    torch.save(net.state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="allow_pickle"):
        load(folder)
    found = load(folder, allow_pickle=True)(torch.ones(1, 1, 16, 16), 100.0, class_labels=1)
    assert torch.equal(found, expected)


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def test_code_in_a_pickle_is_not_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({"conv_in.weight": _Evil()}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="cannot be read"):
        load(folder, allow_pickle=True)
    assert not Path("made-by-a-pickle").exists()
    torch.save([1, 2], weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="tensors by name"):
        load(folder, allow_pickle=True)


def test_damaged_folders_have_one_line_errors(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        load(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load(folder)
    weights.write_bytes(good)
    write_json(folder / "unet" / "config.json", CONFIG | {"in_channels": 8})
    with pytest.raises(ValueError, match=r"conv_in.weight has shape \(8, 4, 3, 3\)"):
        load(folder)
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load(folder)
    write_json(folder / "unet" / "config.json", CONFIG)
    write_json(folder / "dode.json", {"nul_class": 5})
    with pytest.raises(ValueError, match="did you mean 'null_class'"):
        load(folder)
    write_json(folder / "dode.json", {"null_class": 6})
    with pytest.raises(ValueError, match=r"null_class must lie in 0 \.\. 5"):
        load(folder)


def test_bundled_network_needs_no_diffusers(folder):
    script = textwrap.dedent(
        f"""
        import sys
        sys.modules["diffusers"] = None  # importing it fails
        from dode.loading import load
        load({str(folder)!r})
        import json, pathlib
        path = pathlib.Path({str(folder)!r}) / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {{"act_fn": "gelu"}}))
        try:
            load({str(folder)!r})
        except ImportError as error:
            print(error)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install dode[diffusers]" in done.stdout


class Pipe:
    def __init__(self, unet, scheduler):
        self.unet, self.transformer, self.scheduler = unet, None, scheduler


class DDPMScheduler:
    config = SCHEDULER


def light():
    """A network that needs no diffusers, without classes."""
    return UNet.from_config({key: v for key, v in CONFIG.items() if key[0] != "_"} | {"num_class_embeds": None}).eval()


def sampled(denoiser, noise, **cond):
    return dode.sample(denoiser, dode.solver("ddim").tableau(denoiser.schedule, 3), noise, **cond)


@pytest.mark.parametrize("wrap", [lambda net: torch.compile(net, backend="eager"), nn.DataParallel])
def test_compiled_and_parallel_networks_are_what_they_hold(wrap):
    net = light()
    wrapped, noise = wrap(net), images((4, 8, 8))
    expected = sampled(load(net, schedule=VP.linear()), noise)
    for denoiser in (load(wrapped, schedule=VP.linear()), load(Pipe(wrapped, DDPMScheduler()))):
        assert denoiser.shape == (4, 8, 8)
        assert denoiser.net is wrapped
        torch.testing.assert_close(sampled(denoiser, noise), expected)
    assert load(wrapped, schedule=VP.linear()).name == "UNet"


def test_compiled_transformer_in_a_pipeline(dit):
    net, _ = dit
    pipe = Pipe(None, DDPMScheduler())
    pipe.transformer = torch.compile(net, backend="eager")
    denoiser = load(pipe, guidance_scale=2.0)
    assert (denoiser.shape, denoiser.null_condition) == ((4, 8, 8), {"class_labels": 10})
    assert denoiser(images((4, 8, 8)), 9.0, class_labels=1).shape == (3, 4, 8, 8)


def test_a_pipeline_without_a_scheduler_asks_for_a_schedule():
    pipe = Pipe(light(), None)
    with pytest.raises(ValueError, match="Pipe has no scheduler: give schedule="):
        load(pipe)
    assert load(pipe, schedule=VP.linear()).prediction == "epsilon"


def test_another_shape_may_be_a_list():
    denoiser = load(light(), schedule=VP.linear(), shape=[4, 8, 16])
    assert denoiser.shape == (4, 8, 16)
    assert sampled(denoiser, images((4, 8, 16))).shape == (3, 4, 8, 16)


@pytest.fixture
def dit(tmp_path):
    """A small DiT and its folder."""
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()
    net.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    return net, tmp_path


def test_dit_labels_and_guidance(dit):
    net, folder = dit
    x, alpha, sigma = images((4, 8, 8)), float(VP.linear().alpha(400.0)), float(VP.linear().sigma(400.0))

    def eps(labels):
        with torch.no_grad():
            return net(x, timestep=torch.full((3,), 400.0), class_labels=torch.tensor(labels)).sample[:, :4]

    def D(N):
        return (x - sigma * N) / alpha

    labelled, null = eps([1, 2, 0]), eps([10, 10, 10])
    denoiser = load(folder)
    for labels in ([1, 2, 0], np.array([1, 2, 0]), torch.tensor([1, 2, 0])):
        torch.testing.assert_close(denoiser(x, 400.0, class_labels=labels), D(labelled), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(denoiser(x, 400.0), D(null), atol=1e-4, rtol=1e-4)
    guided = load(folder, guidance_scale=4.0)(x, 400.0, class_labels=[1, 2, 0])
    torch.testing.assert_close(guided, D(null + 4 * (labelled - null)), atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match=r"class labels go from 0 to 10 \(10 is the null class\), got 11"):
        denoiser(x, 400.0, class_labels=torch.tensor([1, 11, 0]))


def test_dit_null_class_may_be_named(dit):
    _, folder = dit
    write_json(folder / "dode.json", {"null_class": 3})
    assert load(folder, guidance_scale=2.0).null_condition == {"class_labels": 3}
    write_json(folder / "dode.json", {"null_class": 11})
    with pytest.raises(ValueError, match=r"null_class must lie in 0 \.\. 10"):
        load(folder)


@pytest.mark.parametrize("value", ["10", 2.0, 1.5, -1, True])
@pytest.mark.parametrize("key", ["null_class", "space_to_depth"])
def test_numbers_of_dode_json_are_checked(folder, key, value):
    write_json(folder / "dode.json", {key: value})
    with pytest.raises(ValueError, match=rf"dode\.json: {key} should be .*, got {value!r}"):
        load(folder)


def test_published_name_of_dit(dit):
    net, folder = dit
    place = folder / "transformer" / "config.json"
    write_json(place, json.loads(place.read_text()) | {"_class_name": "Transformer2DModel"})
    x = images((4, 8, 8))
    denoiser = load(folder)
    assert type(denoiser.net.net.net.net).__name__ == "DiTTransformer2DModel"
    expected = load(net, schedule=VP.linear())(x, 5.0, class_labels=2)
    torch.testing.assert_close(denoiser(x, 5.0, class_labels=2), expected)
    # An object of the older class is the same network.
    import diffusers

    config = {key: value for key, value in net.config.items() if key[0] != "_"}
    older = diffusers.Transformer2DModel(**config)
    older.load_state_dict(net.state_dict())
    torch.testing.assert_close(load(older.eval(), schedule=VP.linear())(x, 5.0, class_labels=2), expected)


@pytest.fixture
def run(monkeypatch):
    """The command line, giving its exit code."""
    from dode.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dode", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code

    return run


def test_dit_on_the_command_line(dit, tmp_path, run):
    _, folder = dit
    plain = ("--solver", "ddim", "--nfe", "2", "--device", "cpu")
    for more in (("--classes", "1,2"), (), ("--classes", "0-9", "--guidance-scale", "3")):
        out = tmp_path / f"{len(more)}.npy"
        assert run("sample", folder, *plain, "-n", "3", "--out", out, *more) == 0
        assert np.load(out).shape == (3, 4, 8, 8)
    small = ("--samples", "8", "--validation", "4", "--held-out", "4", "--classes", "1,2", "--paper")
    assert run("distill", folder, *plain, "--out", tmp_path / "t.json", *small) == 0
    assert run("sample", folder, *plain, "--out", tmp_path / "x.npy", "--classes", "11") == 2


def condition_unet(**options):
    diffusers = pytest.importorskip("diffusers")
    options = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 6, "block_out_channels": (8, 16)} | options
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **options,
    ).eval()


@pytest.mark.parametrize(("channels", "labels"), [(9, None), (8, None), (7, 20)])
def test_channels_beside_the_sample(tmp_path, channels, labels):
    """Inpainting, instructions, and upscaling with its noise level, against the network called by hand."""
    diffusers = pytest.importorskip("diffusers")
    net = condition_unet(in_channels=channels, num_class_embeds=labels)
    net.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    denoiser = load(tmp_path)
    assert (denoiser.shape, denoiser.prediction) == ((4, 8, 8), "v")
    x, text, beside = images((4, 8, 8)), torch.randn(3, 5, 6), torch.randn(3, channels - 4, 8, 8)
    more = {} if labels is None else {"class_labels": torch.full((3,), 7)}
    with torch.no_grad():
        given = torch.cat([x, beside], dim=1)
        v = net(given, torch.full((3,), 300.0), encoder_hidden_states=text, **more).sample
    alpha, sigma = float(denoiser.schedule.alpha(300.0)), float(denoiser.schedule.sigma(300.0))
    level = {} if labels is None else {"class_labels": 7}
    found = denoiser(x, 300.0, encoder_hidden_states=text, concat=beside, **level)
    torch.testing.assert_close(found, alpha * x - sigma * v, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=rf"takes {channels - 4} channels beside the sample: give concat="):
        denoiser(x, 300.0, encoder_hidden_states=text, **level)


def test_channels_beside_the_sample_are_refused_on_the_command_line(tmp_path, run, capsys):
    diffusers = pytest.importorskip("diffusers")
    condition_unet(in_channels=8).save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    assert run("sample", tmp_path, "--solver", "ddim", "--nfe", "2", "--device", "cpu", "--out", tmp_path / "x.npy") == 2
    assert "only Python can give: dode.sample(..., concat=...)" in capsys.readouterr().err


def test_variance_beside_a_picture_to_enlarge(tmp_path):
    """As many channels out as in: the scheduler says that half of them are a variance."""
    diffusers = pytest.importorskip("diffusers")
    condition_unet(in_channels=6, out_channels=6).save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path / "scheduler")
    assert load(tmp_path).shape == (3, 8, 8)
    found = load(tmp_path)(images((3, 8, 8)), 3.0, encoder_hidden_states=torch.randn(1, 5, 6), concat=images((3, 8, 8)))
    assert found.shape == (3, 3, 8, 8)
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    assert load(tmp_path).shape == (6, 8, 8)
    assert load(tmp_path, shape=(3, 8, 8)).shape == (3, 8, 8)


def test_scalings_leave_the_channels_beside_the_sample_alone():
    diffusers = pytest.importorskip("diffusers")
    net, scheduler = condition_unet(in_channels=8), diffusers.EDMEulerScheduler()
    denoiser = load(Pipe(net, scheduler))
    x, text, beside = images((4, 8, 8)), torch.randn(3, 5, 6), torch.randn(3, 4, 8, 8)
    scheduler.set_timesteps(3)
    sigma = scheduler.sigmas[1]
    with torch.no_grad():
        given = torch.cat([scheduler.precondition_inputs(x, sigma), beside], dim=1)
        output = net(given, scheduler.timesteps[1], encoder_hidden_states=text).sample
    expected = scheduler.precondition_outputs(x, output, sigma)
    found = denoiser(x, float(sigma), encoder_hidden_states=text, concat=beside)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_networks_that_learn_a_table_of_times_are_asked_at_whole_ones(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config = {key: value for key, value in CONFIG.items() if key[0] != "_"}
    net = diffusers.UNet2DModel(**config, time_embedding_type="learned", num_train_timesteps=1000).eval()
    net.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    x = images((4, 8, 8))
    for denoiser in (load(tmp_path), load(net, schedule=VP.linear())):
        assert denoiser.integer_times
        with torch.no_grad():
            eps = net(x, torch.tensor(300), class_labels=torch.tensor([1, 1, 1])).sample
        alpha, sigma = float(denoiser.schedule.alpha(300)), float(denoiser.schedule.sigma(300))
        torch.testing.assert_close(denoiser(x, 300, class_labels=1), (x - sigma * eps) / alpha, atol=1e-4, rtol=1e-4)
    assert not load(light(), schedule=VP.linear()).integer_times


class Table(nn.Module):
    """A network that looks its time up, in one of the ways that people write."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.rows = nn.Parameter(torch.randn(10, 6))

    def forward(self, x, t, label=None):
        if self.way == "embedding":
            rows = nn.functional.embedding(t, self.rows)
        elif self.way == "index":
            rows = self.rows[t]
        elif self.way == "one-hot":
            rows = nn.functional.one_hot(t, 10).to(x) @ self.rows
        elif self.way == "label":
            rows = self.rows[label]
        else:
            rows = self.rows.index_select(0, t)
        return torch.tanh(x + rows)


@pytest.mark.parametrize("way", ["embedding", "index", "one-hot", "select"])
def test_networks_that_take_no_fractional_time_are_told_how(way):
    net, schedule = Table(way), VP.linear(10, 0.01, 0.6)
    with pytest.raises(ValueError, match="looks its times up in a table: give integer_times=True") as caught:
        sampled(load(net, schedule=schedule), torch.randn(3, 6))
    assert "\n" not in str(caught.value)
    assert sampled(load(net, schedule=schedule, integer_times=True), torch.randn(3, 6)).shape == (3, 6)


def test_errors_over_other_indices_stay_what_they_are():
    with pytest.raises(IndexError, match="must be long"):
        sampled(load(Table("label"), schedule=VP.linear(10, 0.01, 0.6)), torch.randn(3, 6), label=torch.ones(3))


def test_configurations_are_refused_before_anything_slow_is_imported(folder):
    """diffusers takes seconds to import, weights minutes."""
    config = {"_class_name": "DiTTransformer2DModel", "num_embeds_ada_norm": 4, "out_channels": 8}
    write_json(folder / "unet" / "config.json", config)
    good = {"unet/config.json": config, "scheduler/scheduler_config.json": SCHEDULER, "dode.json": {}}
    bad = {
        "unknown network class 'Nobody'": ("unet/config.json", {"_class_name": "Nobody"}),
        "norm_type": ("unet/config.json", {"_class_name": "Transformer2DModel"}),
        "beta_schedule": ("scheduler/scheduler_config.json", SCHEDULER | {"beta_schedule": "wavy"}),
        "LCMScheduler": ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}),
        "null_class must lie": ("dode.json", {"null_class": 7}),
    }
    lines = []
    for message, (place, content) in bad.items():
        lines.append(f"refused({message!r}, {place!r}, {json.dumps(content)!r})")
    script = f"""
import json, pathlib, sys
from dode.loading import load
folder, good = pathlib.Path({str(folder)!r}), json.loads({json.dumps(good)!r})
def refused(message, place, content, **options):
    for name, kept in good.items():
        (folder / name).write_text(json.dumps(kept))
    (folder / place).write_text(content)
    try:
        load(folder, **options)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
{chr(10).join(lines)}
refused("guidance_scal", "dode.json", "{{}}", guidance=2.0)
refused("batch_size", "dode.json", "{{}}", batch_size=0)
assert "diffusers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def without(folder, *names, **others):
    """The folder's weights without some, and with others."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = {name: value for name, value in load_file(path).items() if name not in names}
    save_file(state | others, path)
    return path


def test_weights_that_lack_something_are_refused_by_name(folder):
    path = without(folder, "conv_norm_out.bias", "conv_out.weight")
    with pytest.raises(ValueError, match=r"lacks what config\.json asks for: conv_norm_out\.bias, conv_out\.weight") as caught:
        load(folder)
    assert str(path) in str(caught.value)


def test_weights_of_a_network_of_diffusers_that_lack_something_are_refused_by_name(folder):
    """Before it is built, and after where only diffusers knows the names of the file."""
    pytest.importorskip("diffusers")
    write_json(folder / "unet" / "config.json", CONFIG | {"act_fn": "gelu"})
    assert load(folder).shape == (1, 16, 16)
    without(folder, "conv_norm_out.bias")
    with pytest.raises(ValueError, match=r"lacks what config\.json asks for: conv_norm_out\.bias$"):
        load(folder)
    without(folder, **{"mid_block.attentions.0.query.weight": torch.zeros(16, 16)})
    with pytest.raises(ValueError, match=r"lacks what config\.json asks for: conv_norm_out\.bias$"):
        load(folder)


@pytest.mark.parametrize("kind", ["DiT", "SD3"])
def test_weights_of_transformers_are_compared_before_they_are_built(tmp_path, kind):
    diffusers = pytest.importorskip("diffusers")
    common = {"sample_size": 8, "patch_size": 2, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    if kind == "DiT":
        net = diffusers.DiTTransformer2DModel(in_channels=4, out_channels=8, num_embeds_ada_norm=10, **common)
    else:
        text = {"joint_attention_dim": 6, "caption_projection_dim": 16, "pooled_projection_dim": 7, "pos_embed_max_size": 8}
        net = diffusers.SD3Transformer2DModel(in_channels=4, out_channels=4, **text, **common)
    net.save_pretrained(tmp_path / "transformer")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    place = tmp_path / "transformer" / "config.json"
    config = json.loads(place.read_text())
    for change, message in (
        ({"attention_head_dim": 16}, r"has shape .*, config\.json asks for"),
        ({"num_layers": 2}, r"lacks what config\.json asks for: transformer_blocks"),
        ({"num_layers": 10**5}, "asks for 100,000 layers"),
        ({"sample_size": 4096, "pos_embed_max_size": 4096}, r"x \d,\d+ positions, far more than fit the weights"),
    ):
        write_json(place, config | change)
        with pytest.raises(ValueError, match=message) as caught:
            load(tmp_path)
        assert str(tmp_path / "transformer") in str(caught.value)
    write_json(place, config)
    assert load(tmp_path).shape == (4, 8, 8)


def test_weights_split_over_files_that_lack_something_are_refused(folder):
    pytest.importorskip("diffusers")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    part = path.rename(path.with_name("part.safetensors"))
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(state, part.name)}
    write_json(folder / "unet" / f"{path.name}.index.json", index)
    assert load(folder).shape == (1, 16, 16)
    save_file({name: value for name, value in state.items() if name != "conv_in.bias"}, part)
    with pytest.raises(ValueError, match=r"lacks what config\.json asks for: conv_in\.bias$"):
        load(folder)
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"names part\.safetensors, which is not there"):
        load(folder)
    write_json(folder / "unet" / f"{path.name}.index.json", index | {"weight_map": {"conv_in.bias": "../part.safetensors"}})
    with pytest.raises(ValueError, match=r"index\.json: weight_map.*should match pattern"):
        load(folder)


def test_weights_without_fractions_are_refused_and_others_are_said(folder):
    without(folder, **{"conv_in.bias": torch.ones(8, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"conv_in\.bias holds whole numbers"):
        load(folder)
    without(folder, **{"conv_in.bias": torch.ones(8), "ema.decay": torch.ones(1)})
    with pytest.warns(UserWarning, match=r"has what config\.json has no place for, and it is left out: ema\.decay"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers_per_block": 10**6}, "asks for 2,000,000 layers, and .* has 145 tensors"),
        ({"layers_per_block": -1}, "layers_per_block should be greater than or equal to 1, got -1"),
        (
            {"block_out_channels": [4096, 8192]},
            r"conv_in\.weight has shape \(8, 4, 3, 3\), config\.json asks for \(4096, 4, 3, 3\)",
        ),
        ({"block_out_channels": [10**7] * 2}, "should be less than or equal to 1048576, got 10000000"),
        ({"block_out_channels": None}, "makes no network"),
        ({"sample_size": 10**5}, "sample_size should be less than or equal to 16384"),
        ({"sample_size": 0}, "sample_size should be greater than or equal to 1, got 0"),
        ({"sample_size": [8, -1]}, r"sample_size should be .*, got \[8, -1\]"),
        ({"norm_num_groups": 0}, "norm_num_groups should be greater than or equal to 1, got 0"),
        ({"norm_num_groups": 3}, "makes no network: .*divisible"),
        ({"in_channels": "4"}, "in_channels should be a valid integer, got '4'"),
        ({"in_channels": 3, "out_channels": 3}, "3 channels cannot have space_to_depth 2"),
    ],
)
def test_configurations_that_make_no_network_are_refused_in_one_line(folder, change, message):
    pytest.importorskip("diffusers")
    write_json(folder / "unet" / "config.json", CONFIG | change)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert str(folder / "unet") in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [{"num_train_timesteps": 10**9}, {"num_train_timesteps": 0}, {"beta_start": "1e-4"}, {"trained_betas": [2.0] * 10}],
)
def test_scheduler_configurations_out_of_bounds_say_what_to_give(folder, change):
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | change)
    with pytest.raises(ValueError, match=rf"scheduler_config\.json: {next(iter(change))}.*give schedule="):
        load(folder)
    assert load(folder, schedule=VP.linear(), prediction="epsilon").prediction == "epsilon"


def test_names_in_a_configuration_are_said_without_control_characters(folder):
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | {"\x1b[2J": "\x1b[31m" * 10_000})
    with pytest.warns(UserWarning, match="left out") as caught:
        load(folder)
    write_json(folder / "unet" / "config.json", CONFIG | {"_class_name": "\x1b[2J" * 1000})
    with pytest.raises(ValueError, match="unknown network class") as error:
        load(folder)
    for text in (str(caught[0].message), str(error.value)):
        assert text.isprintable()
        assert len(text) < 1500
