"""Scheduler configurations of diffusers: every class and every key is honoured or refused by name, against the classes' own
tables and steps."""

import inspect
import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import dode
from dode.models import EDMPreconditioned, NoiseAtZero
from dode.models.scheduler_configs import CLASSES, LEFT_OUT, REFUSED, SchedulerConfig
from dode.schedules import EDM, VE, VP, CosineVP, Flow

diffusers = pytest.importorskip("diffusers")

TRAINED = np.linspace(1e-3, 0.1, 50)
# What may be asked of a class that has betas, beyond its defaults.
OPTIONS = (
    {},
    {"num_train_timesteps": 400},
    {"beta_start": 0.001, "beta_end": 0.03, "beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "sigmoid"},
    {"beta_schedule": "laplace"},
    {"beta_schedule": "exp"},
    {"trained_betas": TRAINED, "num_train_timesteps": 50},
    {"rescale_betas_zero_snr": True},
    {"snr_shift_scale": 1.0},
    {"snr_shift_scale": 3.0, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
)
# Kinds of betas that not every class has.
RARE = {
    "sigmoid": {"DDPMScheduler", "DDPMParallelScheduler", "RePaintScheduler"},
    "laplace": {"DDPMScheduler", "DDPMParallelScheduler"},
    "exp": {"HeunDiscreteScheduler"},
}
# Where diffusers' pipelines read a dynamic shift, in classes that do not take these keys themselves.
SEQUENCE = {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}


def scheduler_classes():
    """Every scheduler class of the installed diffusers that can be imported, by name."""
    import diffusers.schedulers as module

    found = {}
    for name in dir(module):
        if not name.endswith("Scheduler"):
            continue
        try:
            kind = getattr(module, name)
        except (AttributeError, ImportError):
            continue
        if inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin):
            found[name] = kind
    return found


ALL = scheduler_classes()
READ = sorted(set(ALL) & set(CLASSES))


def made(name, **options):
    """A scheduler, and its configuration as read."""
    scheduler = ALL[name](**options)
    return scheduler, SchedulerConfig(dict(scheduler.config) | {"_class_name": name})


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_class_is_read_or_refused(name):
    assert (name in CLASSES) != (name in REFUSED)


@pytest.mark.parametrize("name", READ)
def test_every_key_is_read_with_its_default_or_explained(name):
    parameters = inspect.signature(ALL[name].__init__).parameters
    keys = CLASSES[name].keys
    for key, parameter in parameters.items():
        if key in ("self", "kwargs"):
            continue
        assert key in keys or key in LEFT_OUT, f"{name}: nothing is said of {key}"
        if key in keys:
            assert keys[key] == parameter.default, f"{name}: another default of {key}"
    if name != "LTXEulerAncestralRFScheduler":  # which hands its configuration on to FlowMatchEulerDiscreteScheduler
        assert set(keys) - set(parameters) <= (SEQUENCE if "use_dynamic_shifting" in keys else set())


def with_betas():
    for name in READ:
        keys = set(CLASSES[name].keys)
        for options in OPTIONS:
            kind = options.get("beta_schedule")
            if "beta_schedule" in keys and set(options) <= keys and name in RARE.get(kind, {name}):
                if name == "UnCLIPScheduler" and kind not in (None, "squaredcos_cap_v2"):
                    continue
                label = ", ".join(f"{key}={'...' if key == 'trained_betas' else value}" for key, value in options.items())
                yield pytest.param(name, options, id=f"{name} {label}")


@pytest.mark.parametrize(("name", "options"), [*with_betas()])
def test_alpha_and_sigma_are_those_of_the_class(name, options):
    scheduler, read = made(name, **options)
    schedule = read.schedule()
    abar = scheduler.alphas_cumprod.double().numpy()
    times = np.arange(len(abar))
    assert (schedule.t_max, schedule.t_clean) == (len(abar) - 1, -1)
    # diffusers multiplies a thousand float32 numbers; some of its classes have 2^-24 where the SNR is zero.
    np.testing.assert_allclose(schedule.alpha(times) ** 2, abar, atol=1e-6)
    np.testing.assert_allclose(schedule.sigma(times) ** 2, 1 - abar, atol=1e-6)
    # The same from a file that holds no more than what was asked for.
    short = SchedulerConfig({**options, "_class_name": name}).schedule()
    np.testing.assert_allclose(short.alpha(times), schedule.alpha(times))


def test_snr_shift_is_taken_by_default():
    config = {"_class_name": "CogVideoXDDIMScheduler"}
    assert float(SchedulerConfig(config).schedule().alpha(500)) == pytest.approx(0.3360, abs=1e-4)
    assert float(SchedulerConfig(config | {"snr_shift_scale": 1.0}).schedule().alpha(500)) == pytest.approx(0.5257, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in READ if "use_flow_sigmas" in CLASSES[name].keys])
@pytest.mark.parametrize("kind", ["flow_prediction", "epsilon"])
def test_flow_sigmas_make_a_flow(name, kind):
    scheduler, read = made(name, use_flow_sigmas=True, flow_shift=3.0, prediction_type=kind)
    schedule = read.schedule()
    assert isinstance(schedule, Flow)
    assert (schedule.shift, read.prediction) == (3.0, {"flow_prediction": "flow"}.get(kind, kind))
    scheduler.set_timesteps(9)
    sigmas = scheduler.sigmas[: len(scheduler.timesteps)].numpy()
    # These classes truncate their times.
    np.testing.assert_allclose(schedule.sigma(scheduler.timesteps.numpy()), sigmas, atol=1.001e-3)
    np.testing.assert_allclose(schedule.alpha(scheduler.timesteps.numpy()), 1 - sigmas, atol=1.001e-3)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching(name, shift):
    scheduler, read = made(name, shift=shift, num_train_timesteps=500)
    schedule = read.schedule()
    assert isinstance(schedule, Flow)
    assert (schedule.shift, schedule.t_max, read.prediction) == (shift, 500.0, "flow")
    np.testing.assert_allclose(schedule.sigma(scheduler.timesteps.numpy()), scheduler.sigmas.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_dynamic_shift_is_that_of_the_pipelines(kind, tokens):
    scheduler, read = made(
        "FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, time_shift_type=kind, base_shift=0.4, max_shift=1.2
    )
    mu = 0.4 + (1.2 - 0.4) * (tokens - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10), mu=mu)
    schedule = read.schedule(tokens)
    np.testing.assert_allclose(schedule.uniform_time(np.linspace(1, 0.1, 10)), scheduler.timesteps.numpy(), rtol=1e-6)


def test_dynamic_shift_is_that_of_the_size_of_the_network():
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
        pos_embed_max_size=16,
    )
    pipe = Pipe(None, diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    pipe.transformer = net
    for shape, tokens in ((None, 16), ((4, 16, 24), 96)):
        denoiser = dode.load(pipe, **({} if shape is None else {"shape": shape}))
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        assert denoiser.schedule.shift == pytest.approx(math.exp(mu))


def test_dynamic_shift_of_an_unknown_size_is_said():
    read = SchedulerConfig({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift": 3.0})
    with pytest.warns(UserWarning, match=r"use_dynamic_shifting.*give schedule=dode.schedules.Flow\(shift=\.\.\.\)"):
        assert read.schedule().shift == 1.0


# A value other than the default, for every key that is read anywhere; what must hold beside it.
OTHER = {
    "base_image_seq_len": ({"base_image_seq_len": 128}, {"use_dynamic_shifting": True}),
    "base_shift": ({"base_shift": 0.1}, {"use_dynamic_shifting": True}),
    "beta_end": ({"beta_end": 0.05}, {"beta_schedule": "linear"}),
    "beta_schedule": ({"beta_schedule": "sigmoid"}, {}),
    "beta_start": ({"beta_start": 0.01}, {"beta_schedule": "linear"}),
    "flow_shift": ({"flow_shift": 2.0}, {"use_flow_sigmas": True}),
    "invert_sigmas": ({"invert_sigmas": True}, {}),
    "max_image_seq_len": ({"max_image_seq_len": 2048}, {"use_dynamic_shifting": True}),
    "max_shift": ({"max_shift": 2.0}, {"use_dynamic_shifting": True}),
    "num_train_timesteps": ({"num_train_timesteps": 100}, {}),
    "prediction_type": ({"prediction_type": "v_prediction"}, {}),
    "rescale_betas_zero_snr": ({"rescale_betas_zero_snr": True}, {}),
    "s": ({"s": 0.02}, {}),
    "shift": ({"shift": 2.0}, {}),
    "sigma_data": ({"sigma_data": 1.0}, {}),
    "sigma_max": ({"sigma_max": 20.0}, {}),
    "sigma_min": ({"sigma_min": 0.1}, {}),
    "snr_shift_scale": ({"snr_shift_scale": 2.0}, {}),
    "time_shift_type": ({"time_shift_type": "linear"}, {"use_dynamic_shifting": True}),
    "timestep_type": ({"timestep_type": "continuous"}, {"prediction_type": "v_prediction"}),
    "trained_betas": ({"trained_betas": TRAINED}, {}),
    "use_beta_sigmas": ({"use_beta_sigmas": True}, {}),
    "use_dynamic_shifting": ({"use_dynamic_shifting": True}, {}),
    "use_exponential_sigmas": ({"use_exponential_sigmas": True}, {}),
    "use_flow_sigmas": ({"use_flow_sigmas": True}, {}),
    "use_karras_sigmas": ({"use_karras_sigmas": True}, {}),
}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.05, "sigma_max": 300.0}
KARRAS = ("sigma_min", "sigma_max", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def meaning(config):
    """All that a configuration says, as numbers and words."""
    read = SchedulerConfig(config)
    schedule = read.schedule(tokens=1024)
    times = np.linspace(schedule.t_min, schedule.t_max, 7)
    net = read.wrap(nn.Identity(), schedule)
    wrapper = (type(net), getattr(net, "sigma_data", None), getattr(net, "negative", None))
    shift = getattr(schedule, "shift", None)
    return repr((times, schedule.alpha(times), schedule.sigma(times), shift, read.prediction, wrapper))


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in sorted(CLASSES) for key in CLASSES[name].keys])
def test_every_key_that_is_read_has_an_effect(name, key):
    choose_the_grid = {
        "IPNDMScheduler": ("num_train_timesteps", "trained_betas"),
        "EDMEulerScheduler": ("num_train_timesteps",),
        "EDMDPMSolverMultistepScheduler": ("num_train_timesteps",),
        "ScoreSdeVeScheduler": ("num_train_timesteps",),
        "DDPMWuerstchenScheduler": ("scaler",),  # refused with another value
    }
    if key in choose_the_grid.get(name, ()):
        return
    other, beside = OTHER[key]
    if name == "EulerDiscreteScheduler" and key in KARRAS:
        beside = CONTINUOUS | ({"use_karras_sigmas": True} if key.startswith("sigma") else {})
    elif key in SEQUENCE | {"time_shift_type", "use_dynamic_shifting"} and "use_flow_sigmas" in CLASSES[name].keys:
        beside = beside | {"use_flow_sigmas": True}
    config = {"_class_name": name, **{k: v for k, v in beside.items() if k in CLASSES[name].keys}}
    assert meaning(config | other) != meaning(config)


def unet():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    )
    return net.eval().requires_grad_(False)


class Pipe:
    def __init__(self, unet, scheduler):
        self.unet, self.scheduler = unet, scheduler


def stepped(scheduler, net, x, steps, **options):
    """What diffusers makes of a state with this scheduler, and its times."""
    scheduler.set_timesteps(steps, **options)
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = net(given, t)
        x = scheduler.step(getattr(output, "sample", output), t, x).prev_sample
    return x


EDM_LIKE = {
    "EDM": diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0),
    "EDM with other data": diffusers.EDMEulerScheduler(sigma_data=1.3, sigma_schedule="exponential"),
    "EDM with v": diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_max=20.0, rho=5.0),
    "EDM, multistep": diffusers.EDMDPMSolverMultistepScheduler(solver_order=1, euler_at_final=True),
    "continuous": diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0
    ),
    "continuous, sigmas of betas": diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", beta_schedule="scaled_linear"
    ),
}


@pytest.mark.parametrize("name", EDM_LIKE)
def test_preconditioned_networks_step_as_in_diffusers(name):
    net, scheduler = unet(), EDM_LIKE[name]
    denoiser = dode.load(Pipe(net, scheduler))
    assert isinstance(denoiser.schedule, EDM)
    assert denoiser.prediction == "edm"
    noise = torch.randn(2, 3, 8, 8)
    scheduler.set_timesteps(6)
    sigmas = scheduler.sigmas.double().numpy()
    assert denoiser.schedule.t_max == pytest.approx(sigmas[0], rel=1e-4)
    expected = stepped(scheduler, net, noise * sigmas[0], 6)
    grid = [*np.clip(sigmas[:-1], denoiser.schedule.t_min, denoiser.schedule.t_max), 0.0]  # float32 rounds either way
    tableau = dode.solver("ddim").tableau(denoiser.schedule, grid=grid)
    found = dode.sample(denoiser, tableau, noise * sigmas[0] / grid[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_euler_with_continuous_times_and_epsilon_is_plain_in_diffusers_too():
    scheduler = diffusers.EulerDiscreteScheduler(timestep_type="continuous")
    scheduler.set_timesteps(5)
    assert float(scheduler.timesteps[0]) == 999.0
    denoiser = dode.load(Pipe(unet(), scheduler))
    assert isinstance(denoiser.schedule, VP)
    assert denoiser.prediction == "epsilon"


class Velocity(nn.Module):
    """Some smooth function of state and time."""

    def forward(self, x, t):
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)
        return torch.tanh(1.3 * x) + torch.cos(3 * t)


def test_inverted_sigmas_step_as_in_diffusers():
    scheduler, read = made("FlowMatchEulerDiscreteScheduler", invert_sigmas=True, num_train_timesteps=10)
    noise, net = torch.randn(4, 3), Velocity()
    expected = stepped(scheduler, net, noise, 5)
    schedule = read.schedule()
    denoiser = dode.Denoiser(read.wrap(net, schedule), schedule, read.prediction)
    grid = [*(10 - scheduler.timesteps.double().numpy()), 0.0]
    found = dode.sample(denoiser, dode.solver("ddim").tableau(schedule, grid=grid), noise)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_time_from_noise_to_data_steps_as_in_diffusers():
    scheduler, read = made("MiniMaxH3Scheduler", shift=4.0)
    noise, net = torch.randn(4, 3), Velocity()
    expected = stepped(scheduler, net, noise, 6)
    schedule = read.schedule()
    assert (schedule.shift, schedule.t_max) == (4.0, 1.0)
    denoiser = dode.Denoiser(read.wrap(net, schedule), schedule, read.prediction)
    found = dode.sample(denoiser, dode.solver("ddim").tableau(schedule, 5, "uniform"), noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_ipndm_is_a_cosine_with_v():
    scheduler, read = made("IPNDMScheduler")
    schedule = read.schedule()
    times = scheduler.timesteps.double().numpy()
    assert isinstance(schedule, CosineVP)
    assert (read.prediction, schedule.t_max) == ("v", 1.0)
    np.testing.assert_allclose(schedule.alpha(times), scheduler.alphas[:-1].double().numpy(), atol=1e-6)
    np.testing.assert_allclose(schedule.sigma(times), scheduler.betas[:-1].double().numpy(), atol=1e-6)
    # The step that it begins with is DDIM's; not from t = 1, where it divides by alpha = 0.
    noise, net = torch.randn(4, 3), Velocity()
    scheduler.set_timesteps(5)
    expected = scheduler.step(net(noise, scheduler.timesteps[1]), scheduler.timesteps[1], noise).prev_sample
    denoiser = dode.Denoiser(net, schedule, read.prediction)
    tableau = dode.solver("ddim").tableau(schedule, grid=scheduler.timesteps[1:3].tolist())
    torch.testing.assert_close(dode.sample(denoiser, tableau, noise), expected, rtol=1e-4, atol=1e-4)


def test_wuerstchen():
    scheduler, read = made("DDPMWuerstchenScheduler", s=0.01)
    schedule = read.schedule()
    times = np.linspace(schedule.t_min, schedule.t_max, 20)
    expected = scheduler._alpha_cumprod(torch.from_numpy(times).float(), torch.device("cpu")).numpy()
    np.testing.assert_allclose(schedule.alpha(times) ** 2, expected, atol=1e-5)
    assert (expected.max(), expected.min()) == pytest.approx((0.9999, 0.0001))
    with pytest.raises(ValueError, match=r"scaler = 2.0 is not supported.*give schedule="):
        made("DDPMWuerstchenScheduler", scaler=2.0)[1].schedule()


def test_ve_is_asked_at_sigma_and_gives_the_score():
    scheduler, read = made("ScoreSdeVeScheduler", sigma_min=0.02, sigma_max=90.0)
    schedule = read.schedule()
    assert (schedule.t_max, schedule.t_min) == (90.0, 0.02)
    sigmas = scheduler.discrete_sigmas.double().numpy()
    np.testing.assert_allclose(schedule.sigma(sigmas), sigmas)

    class Score(nn.Module):
        """Of data N(0, 1), as a network that is asked at sigma."""

        def forward(self, x, sigma):
            return -x / (1 + sigma[:, None] ** 2)

    x, t = torch.randn(2, 3), 0.7
    for other in (schedule, VE(0.02, 90.0), VP.linear(), Flow()):
        t = float(other.uniform_time(0.7))
        alpha, sigma = float(other.alpha(t)), float(other.sigma(t))
        denoiser = dode.Denoiser(read.wrap(Score(), other), other, read.prediction)
        torch.testing.assert_close(denoiser(x, t), x * alpha / (alpha**2 + sigma**2), atol=1e-5, rtol=1e-3)
    pipe = Pipe(unet(), scheduler)
    assert dode.load(pipe, schedule=VE()).prediction == "edm"
    with pytest.raises(ValueError, match="asked at sigma and gives the score"):
        dode.load(pipe, schedule=VE(), prediction="epsilon")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_classes_say_why_and_what_to_give(name):
    read = SchedulerConfig({"_class_name": name})
    with pytest.raises(ValueError, match=rf"{name} is for .*give schedule=\.\.\..* and prediction=") as caught:
        read.schedule()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="give prediction="):
        _ = read.prediction
    net = unet()
    denoiser = dode.load(Pipe(net, named(name)), schedule=VP.linear(), prediction="v")
    assert (denoiser.prediction, type(denoiser.schedule)) == ("v", VP)


def named(name, **config):
    """A scheduler object of a class of this name."""
    return type(name, (), {"config": config})()


def advised(config):
    """Configurations that are refused: the line, and what giving the schedule that it asks for makes of them."""
    pipe = Pipe(unet(), named(config.pop("_class_name"), **config))
    with pytest.raises(ValueError, match="give schedule=") as caught:
        dode.load(pipe)
    assert "\n" not in str(caught.value)
    return str(caught.value), dode.load(pipe, schedule=VP.linear()).prediction


@pytest.mark.parametrize(
    ("config", "line", "prediction"),
    [
        ({"_class_name": "DDPMScheduler", "beta_schedule": "wavy"}, "unknown beta_schedule 'wavy'", "epsilon"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [2.0, 3.0], "prediction_type": "sample"}, "betas must", "sample"),
        ({"_class_name": "LCMScheduler", "prediction_type": "v_prediction"}, "LCMScheduler is for networks distilled", "v"),
        ({"_class_name": "DDIMSchedular", "prediction_type": "epsilon"}, "is it DDIMScheduler", "epsilon"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "use_flow_sigmas", "flow"),
    ],
)
def test_giving_the_schedule_that_a_line_asks_for_works(config, line, prediction):
    said, found = advised(dict(config))
    assert line in said
    assert found == prediction


def test_giving_the_prediction_that_a_line_asks_for_works():
    pipe = Pipe(unet(), named("DDPMScheduler", prediction_type="velocity"))
    with pytest.raises(ValueError, match=r"prediction_type 'velocity'.*give prediction="):
        dode.load(pipe)
    assert dode.load(pipe, prediction="v").schedule.fingerprint == VP.linear().fingerprint
    pipe = Pipe(unet(), named("SomebodysScheduler"))
    with pytest.raises(ValueError, match="give prediction="):
        dode.load(pipe, schedule=VP.linear())
    assert dode.load(pipe, schedule=VP.linear(), prediction="score").prediction == "score"


def test_a_given_schedule_leaves_a_preconditioned_network_wrapped():
    pipe = Pipe(unet(), diffusers.EDMEulerScheduler())
    denoiser = dode.load(pipe, schedule=EDM(0.01, 40.0))
    assert (denoiser.prediction, denoiser.schedule.t_max) == ("edm", 40.0)
    assert isinstance(denoiser.net, EDMPreconditioned)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(denoiser(x, 3.0), dode.load(pipe)(x, 3.0))


def test_a_preconditioned_network_is_never_taken_for_a_plain_one():
    pipe = Pipe(unet(), diffusers.EDMEulerScheduler())
    for given in ({}, {"schedule": EDM()}):
        with pytest.raises(ValueError, match=r"preconditioned.*'edm'.*leave it out, or load the network alone"):
            dode.load(pipe, prediction="epsilon", **given)
    assert dode.load(pipe, prediction="edm").prediction == "edm"
    # The advice works: the bare network is what its caller says.
    assert dode.load(pipe.unet, schedule=EDM(), prediction="epsilon").prediction == "epsilon"
    pipe = Pipe(unet(), diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    assert isinstance(dode.load(pipe).net, NoiseAtZero)
    with pytest.raises(ValueError, match="from noise to data"):
        dode.load(pipe, prediction="epsilon")


def test_subclass_of_a_known_scheduler_is_read_as_it():
    class Mine(diffusers.DDIMScheduler):
        pass

    scheduler = Mine(beta_schedule="scaled_linear", prediction_type="v_prediction")
    denoiser = dode.load(Pipe(unet(), scheduler))
    assert denoiser.prediction == "v"
    assert denoiser.schedule.fingerprint == VP.scaled_linear(1000, 1e-4, 0.02).fingerprint


def test_saved_configurations_load_in_silence(tmp_path):
    unet().save_pretrained(tmp_path / "unet")
    for name in READ:
        ALL[name]().save_pretrained(tmp_path / "scheduler")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dode.load(tmp_path)


def test_configurations_made_from_another_class_load_in_silence(tmp_path):
    """diffusers keeps what it does not read when one scheduler is made from the configuration of another."""
    unet().save_pretrained(tmp_path / "unet")
    for first in ("PNDMScheduler", "LCMScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"):
        for second in ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
            ALL[second].from_config(ALL[first]().config).save_pretrained(tmp_path / "scheduler")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                dode.load(tmp_path)


def test_keys_that_are_not_known_are_said():
    config = {"_class_name": "DDIMScheduler", "gamma_warp": 2.0, "off": False, "none": None, "empty": [], "_private": 3}
    with pytest.warns(UserWarning, match=r"DDIMScheduler.*gamma_warp = 2\.0; if it changes") as caught:
        SchedulerConfig(config)
    assert len(caught) == 1
    assert "off" not in str(caught[0].message).split("; ")[0].split(": ")[-1]
    # A key of another class, which this one does not read, in diffusers either.
    with pytest.warns(UserWarning, match=r"snr_shift_scale = 2\.0"):
        read = SchedulerConfig({"_class_name": "DDIMScheduler", "snr_shift_scale": 2.0})
    assert read.schedule().fingerprint == VP.linear().fingerprint


def test_thresholding_is_said_unless_it_is_chosen(tmp_path):
    unet().save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(thresholding=True).save_pretrained(tmp_path / "scheduler")
    with pytest.warns(UserWarning, match="dynamic_threshold="):
        dode.load(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dode.load(tmp_path, dynamic_threshold=0.995).dynamic_threshold == 0.995


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="without _class_name"):
        SchedulerConfig({"beta_schedule": "linear"}).schedule()


def test_the_files_of_the_bundled_networks_are_understood():
    for model in dode.models.BUNDLED.values():
        content = json.loads((model.folder / "scheduler" / "scheduler_config.json").read_text())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert SchedulerConfig(content).schedule().t_max in (999.0, 1000.0, 80.0)


def test_noise_at_zero_turns_the_other_convention():
    """Data N(2, 1/4) with its exact velocity data - noise, at times from 0 (noise) to 1: the end of 100 Euler steps."""

    class Velocity(nn.Module):
        def forward(self, x, t):
            t = t.to(x)[:, None]
            return 2 + (0.25 * t - (1 - t)) / ((1 - t) ** 2 + 0.25 * t * t) * (x - 2 * t)

    torch.manual_seed(0)
    x, flow, velocity = torch.randn(4096, 2, dtype=torch.float64), Flow(time_scale=1.0), Velocity()
    tableau = dode.solver("ddim").tableau(flow, 100)
    ends = [
        dode.sample(dode.Denoiser(net, flow, "flow"), tableau, x)
        for net in (NoiseAtZero(velocity), lambda x, t: -velocity(x, 1 - t))
    ]
    torch.testing.assert_close(ends[0], ends[1])
    assert float(ends[0].mean()) == pytest.approx(1.991, abs=1e-3)
    assert float(ends[0].std()) == pytest.approx(0.493, abs=1e-3)
    assert math.isclose(
        float(NoiseAtZero(velocity, 10.0)(x, torch.full((4096,), 9.0)).sum()), -float(velocity(x, torch.ones(4096)).sum())
    )
