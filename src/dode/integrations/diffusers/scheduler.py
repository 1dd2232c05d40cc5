"""`DodeScheduler`: tableaux, distilled or classical, in the place of a pipeline's scheduler.

    pipe.scheduler = DodeScheduler.from_tableaux(result, pipe.scheduler.config)      # what `dode.distill` made
    pipe.scheduler.save_pretrained("sdxl-dode")
    pipe.scheduler = DodeScheduler.from_pretrained("sdxl-dode")                      # all that production changes
    pipe.scheduler = DodeScheduler.from_solver("unipc", pipe.scheduler.config, order=2)

A table's times are final: what a pipeline computes for its scheduler (`sigmas`, `mu`) is not applied to it. `num_inference_steps` counts
network calls.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from torch import Tensor

from dode.denoisers import threshold
from dode.grids import Point, make_grid
from dode.integrations.diffusers.classical import solver_table
from dode.integrations.diffusers.configs import of_network, translated
from dode.integrations.diffusers.setting import check_sample, check_shift
from dode.integrations.diffusers.stepping import Stepper
from dode.integrations.diffusers.tables import Table, Tables, rest_of
from dode.models.slots import Slot, slot_of
from dode.schedules import VP
from dode.solvers import solver as make_solver
from dode.tableau import Tableau

# diffusers lists these with the others: the one needs a library that may not be there, the other has no betas.
_NOT_COMPATIBLE = ("DPMSolverSDEScheduler", "EDMEulerScheduler")


class DodeScheduler(SchedulerMixin, ConfigMixin):
    """Runs tableaux in a pipeline of diffusers; made by `from_tableaux`, `from_solver` or `from_pretrained`.

    It serves networks that predict epsilon, v ("v_prediction"), the sample, or a flow ("flow_prediction"), and those inside the scalings
    of EDM. `config` keeps what the network's own scheduler says, so that pipelines find it there and other schedulers can be made of it.

    Args:
        scheduler_class: the class whose configuration this is: it says how the keys below are read.
        tableaux: what is held, as `Tableau.to_saved` writes it: several numbers of calls, and several starts of each.
        solver: where no tableaux are held: the solver that is run, a name of `dode.solver`.
        solver_options: its options.
        grid: its grid, a name or explicit times; the solver's or the schedule's own if None, or what the pipeline's `sigmas` say.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: of the network's betas, as in diffusers.
        rescale_betas_zero_snr, snr_shift_scale, timestep_type: how they are changed and counted, as in diffusers.
        sigma_min, sigma_max, sigma_data: of EDM's sigmas, as in diffusers.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: of its sigmas in between, as in diffusers.
        use_flow_sigmas, flow_shift, shift, use_dynamic_shifting, time_shift_type, invert_sigmas: of a flow, as in diffusers.
        base_shift, max_shift, base_image_seq_len, max_image_seq_len: of a flow's shift by size, as in diffusers.
        prediction_type: of the network, as in diffusers.
        thresholding, dynamic_thresholding_ratio, sample_max_value: as in diffusers: D is clipped to a quantile of each sample.
        variance_type: "learned" and "learned_range": the second half of the network's channels is left out.

    Attributes:
        timesteps: (calls,) on the device of `set_timesteps`.
        sigmas: (calls + 1,) on the host: sigma of a flow, sigma / alpha of others.

    Raises:
        ValueError: a network without an ODE of a known schedule, a prediction that is not known, or a tableau of another network.
    """

    _compatibles: ClassVar[list[str]] = [
        *(kind.name for kind in KarrasDiffusionSchedulers if kind.name not in _NOT_COMPATIBLE),
        "FlowMatchEulerDiscreteScheduler",
    ]
    order = 1

    # The loop: the table of a whole run; the table that is run, which call of the loop is that one's first, and the times that are shown;
    # where the loop is, and where it was said to begin.
    _whole: Table | None
    _table: Table | None
    _first: int
    _times: tuple[float, ...]
    _step_index: int | None
    _begin_index: int | None
    _stepper: Stepper | None
    # A first output that is shared, 0 if None; and whether the network was given the state after it.
    _mean: Tensor | None
    _opened: bool

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float = 1.0,
        timestep_type: str = "discrete",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float = 0.5,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        variance_type: str | None = None,
        scheduler_class: str = "DDIMScheduler",
        tableaux: list[dict[str, Any]] | None = None,
        solver: str = "dpm-solver++",
        solver_options: dict[str, Any] | None = None,
        grid: str | list[float] | None = None,
    ) -> None:
        self._network = of_network(self.config)
        self._halves = self._network.learned_variance
        self._slot: Slot = slot_of(self._network)
        held = [Tableau.from_json(tableau) for tableau in tableaux or []]
        self._tables = Tables(held, self._slot, works_on_D=thresholding) if held else None
        self._made: tuple[Any, Table] | None = None
        self._said: set[str] = set()
        if self._tables is None:
            # A solver, an option or a grid that cannot be is refused here, not in the first call of a pipeline.
            make_grid(grid, self._slot.schedule)
            make_solver(solver, **solver_options or {})
        if isinstance(self._slot.schedule, VP):
            alphas = self._slot.schedule.alpha(np.arange(self._slot.schedule.t_max + 1))
            self.alphas_cumprod = torch.tensor(alphas**2, dtype=torch.float32)
            self.alphas = torch.cat([self.alphas_cumprod[:1], self.alphas_cumprod[1:] / self.alphas_cumprod[:-1]])
            self.betas = 1 - self.alphas
        self.num_inference_steps: int | None = None
        self._use(None, None)

    @classmethod
    def from_tableaux(cls, tableaux: Any, config: Any) -> DodeScheduler:
        """A scheduler that runs given tableaux.

        Args:
            tableaux: a `Tableau`, a `TableauSet`, a `Distilled` or several; what `dode.distill` gives.
            config: of the pipeline's own scheduler, `pipe.scheduler.config`; or that scheduler.

        Raises:
            TypeError, ValueError: no tableaux, two of one number of calls and one start, or one of another schedule.
        """
        given = [tableaux] if isinstance(tableaux, Tableau) or hasattr(tableaux, "tableau") else list(tableaux)
        found = [getattr(entry, "tableau", entry) for entry in given]
        for entry in found:
            if not isinstance(entry, Tableau):
                raise TypeError(f"from_tableaux takes tableaux or what dode.distill gives, got {type(entry).__name__}")
        if not found:
            raise ValueError("there are no tableaux: give at least one")
        made: DodeScheduler = cls.from_config(translated(config), tableaux=[tableau.to_saved() for tableau in found])
        return made

    @classmethod
    def from_solver(
        cls, name: str, config: Any = None, *, grid: str | Sequence[float] | None = None, **options: Any
    ) -> DodeScheduler:
        """A classical solver as a scheduler, with any number of calls.

        Args:
            name: of `dode.solver`: "ddim", "deis", "dpm-solver++", "unipc" ...
            config: as for `from_tableaux`; DDPM's linear betas and epsilon if None.
            grid: where it stops, a name or explicit times.
            options: the solver's own, such as order=2.

        Raises:
            ValueError: an unknown solver, option or grid.
        """
        chosen = make_solver(name, **options)
        stops = grid if grid is None or isinstance(grid, str) else [float(t) for t in grid]
        made: DodeScheduler = cls.from_config(
            translated({} if config is None else config),
            solver=chosen.name,
            solver_options=dict(options),
            grid=stops,
            tableaux=None,
        )
        return made

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from the configuration of this class, or of any class of diffusers whose network has an ODE.

        Raises:
            ValueError: a scheduler of another kind; the message says which and why.
        """
        if isinstance(config, Mapping) and config.get("_class_name") != cls.__name__:
            config = translated(config)
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    # The state of a loop.

    @property
    def init_noise_sigma(self) -> float:
        """The factor from standard normal noise to the first state: 1 but for EDM's networks."""
        if self._table is not None:
            return self._table.tableau.noise_scale
        return self._slot.schedule.noise_scale(self._slot.schedule.t_max)

    @property
    def step_index(self) -> int | None:
        """The next call, from 0; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The call that the loop begins with; None where it was not said."""
        return self._begin_index

    @property
    def held(self) -> list[int] | None:
        """The numbers of calls that there are tables of; None where a solver serves any."""
        return None if self._tables is None else self._tables.held

    def __repr__(self) -> str:
        """What is run, in a line: diffusers puts the whole configuration, numbers and all, into its messages."""
        if self._tables is None:
            what = str(make_solver(self.config.solver, **self.config.solver_options or {}))
        else:
            what = "; ".join(table.tableau.title for table in self._tables.all)
        return f"DodeScheduler({what}, for {self.config.scheduler_class})"

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Take the table for a number of network calls.

        Args:
            num_inference_steps: how many; by the length of `timesteps` or `sigmas` if None.
            device: where `timesteps` are wanted.
            timesteps: the network's times at which a solver stops, decreasing, or those of all its calls; a table's are final.
            sigmas: a solver's sigma (of a flow, before its shift; sigma / alpha else), with or without a last 0. Of a table their number
                counts alone.
            mu: the shift of a flow for the size of the image.

        Raises:
            ValueError: a number of calls that is not held, times where the table has its own, or times that cannot be.
        """
        if timesteps is not None and sigmas is not None:
            raise ValueError("give timesteps or sigmas, not both")
        given = timesteps if timesteps is not None else sigmas
        values = None if given is None else _numbers(given)
        if values is not None and sigmas is not None and values[-1] == 0:
            values = values[:-1]
        calls = num_inference_steps if values is None else len(values)
        if calls is None:
            raise ValueError("set_timesteps needs num_inference_steps, timesteps or sigmas")
        if int(calls) != calls or calls < 1:
            raise ValueError(f"num_inference_steps counts network calls, at least 1, got {calls}")
        calls = int(calls)
        if self._tables is not None:
            table = self._tables.whole(calls)
            table.tableau.warn_if_changed()
            check_shift(table.setting, mu, self._warn)
            if timesteps is not None and not np.allclose(values or [], table.times, rtol=1e-3, atol=1e-3):
                raise ValueError("timesteps are a solver's: the times of a table are final, leave them out")
        else:
            table = self._of_solver(calls, None if timesteps is None else values, None if sigmas is None else values, mu)
        self.num_inference_steps = table.nfe
        self._use(table, device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which call the loop begins with. What is run from there is chosen here, before the loop: a table that was made for that
        start, if one is held, else a solver that warms itself up.

        Raises:
            ValueError: an index below 0, or a time at which no solver begins.
        """
        if begin_index < 0:
            raise ValueError(f"begin_index counts the calls from 0, got {begin_index}")
        self._begin_index = begin_index
        if self._step_index is None and self._whole is not None:
            self._start_at(self._whole, begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is given for a state: the state itself but for EDM's networks, and where a first output is shared."""
        table = self._table
        if table is None or (table.input_scales is None and not table.offset):
            return sample
        if self._step_index is None:
            self._begin(timestep)
        k, table = self._step_index, self._table
        assert k is not None and table is not None
        if table.offset and k == self._first:
            sample = self._open(sample).to(sample.dtype)
            self._opened = True
        return sample if table.input_scales is None else sample * table.input_scales[k - self._first]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The next state.

        Args:
            model_output: (batch, *shape), what the network gave.
            timestep: the time of the loop; it tells where the loop begins if nothing else has.
            sample: (batch, *shape), the state.
            eta, use_clipped_model_output, generator, variance_noise: of schedulers that add noise; nothing is done with them.
            return_dict: return an object with `prev_sample` in place of a tuple.

        Returns:
            The state in the dtype of the output.

        Raises:
            ValueError: before `set_timesteps`, after the last step, or for samples that the table was not made for.
        """
        if self._step_index is None:
            self._begin(timestep)
            assert self._table is not None
            check_sample(self._table.setting, sample, self._warn)
            if eta or variance_noise is not None:
                self._warn("eta and variance_noise are left out: a tableau runs an ODE, which adds no noise")
        k = self._step_index
        assert k is not None and self._stepper is not None and self._table is not None
        if k - self._first >= self._table.nfe:
            raise ValueError(
                f"the loop has made its {self._first + self._table.nfe} calls: call set_timesteps before the next one"
            )
        if self._halves and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output.chunk(2, dim=1)[0]
        if self._table.offset and k == self._first:
            if not self._opened:
                raise ValueError(
                    "this pipeline hands its states to the network without scale_model_input, so that it has no place for a first output "
                    "that is shared: distil with firsts=['network']"
                )
            sample = self._open(sample)
        previous = self._stepper.step(k - self._first, model_output, sample)
        self._step_index = k + 1
        return SchedulerOutput(prev_sample=previous) if return_dict else (previous,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x_0 + sigma noise.

        Args:
            original_samples, noise: (batch, *shape).
            timesteps: (batch,) the network's times, any; within a loop the loop's own place counts, as in diffusers.
        """
        point = self._place()
        if point is not None:
            return original_samples * point.alpha + noise * point.sigma
        times = np.array([self._slot.time_of(float(t)) for t in torch.as_tensor(timesteps).flatten().tolist()])
        alpha, sigma = (
            torch.tensor(f(times), dtype=torch.float32).to(original_samples).reshape(-1, *[1] * (original_samples.ndim - 1))
            for f in (self._slot.schedule.alpha, self._slot.schedule.sigma)
        )
        return original_samples * alpha + noise * sigma

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` with the argument order of flow schedulers."""
        return self.add_noise(sample, noise, timestep)

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The first call at a time, or at the nearest one: a loop in half precision has rounded them."""
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        return int((times.double().cpu() - torch.as_tensor(timestep).double().cpu()).abs().argmin())

    # Which table is run.

    def _use(self, table: Table | None, device: Any) -> None:
        """Begin anew with the table of a whole run."""
        self._whole, self._begin_index = table, None
        if table is None:
            schedule = self._slot.schedule
            times = np.linspace(schedule.t_max, schedule.t_min, len(self))
            points = [Point(float(t), float(schedule.alpha(t)), float(schedule.sigma(t))) for t in times]
            self.timesteps = torch.tensor([self._slot.time(point.t) for point in points], dtype=torch.float32)
            self.sigmas = torch.tensor([self._slot.noise_level(point) for point in points], dtype=torch.float32)
        else:
            self._times = table.times
            self.timesteps = torch.tensor(self._times, dtype=self._time_dtype(table)).to(device)
        self._run(table, 0)

    def _start_at(self, whole: Table, first: int) -> None:
        """Take what serves a loop that begins with this call."""
        if first == self._first or first >= whole.nfe:
            return
        if first == 0:
            self._run(whole, 0)
            return
        held = None if self._tables is None else self._tables.from_start(whole.nfe - first, whole.points[first].t)
        table = held or rest_of(whole, first)
        if held is None and self._tables is not None:
            self._warn(
                f"the loop begins at call {first + 1} of {whole.nfe}, where a table has no history: {table.tableau.solver} runs the "
                f"{table.nfe} calls that are left; distil one from t = {table.points[0].t:g} to have a table there"
            )
        elif held is None and table.tableau.solver != whole.tableau.solver:
            self._warn(
                f"{whole.tableau.solver} cannot begin at call {first + 1} of {whole.nfe}: {table.tableau.solver} runs those that are left"
            )
        self._run(table, first)

    def _run(self, table: Table | None, first: int) -> None:
        """Set the loop to a table whose first call is the loop's call `first`."""
        self._table, self._first = table, first
        self._step_index = self._stepper = None
        self._opened = False
        if table is None or self._whole is None:
            return
        # Made before the loop, not in it.
        _ = table.form
        mean = table.tableau.mean
        self._mean = None if mean is None else torch.tensor(mean, dtype=torch.float32, device=self.timesteps.device)
        self.sigmas = torch.tensor(
            [self._slot.noise_level(point) for point in [*self._whole.points[:first], *table.points]], dtype=torch.float32
        )
        times = (*self._whole.times[:first], *table.times)
        if times != self._times:
            # A pipeline has its part of `timesteps` in hand already: it sees what is written there.
            self.timesteps.copy_(torch.tensor(times, dtype=self.timesteps.dtype))
        self._times = times

    def _time_dtype(self, table: Table) -> torch.dtype:
        """Whole times as whole numbers, as networks of discrete schedules have them from diffusers."""
        tables = [table, *(self._tables.all if self._tables is not None else [])]
        whole = isinstance(self._slot.schedule, VP) and all(t == round(t) for each in tables for t in each.times)
        return torch.int64 if whole else torch.float32

    def _of_solver(self, calls: int, timesteps: list[float] | None, sigmas: list[float] | None, mu: float | None) -> Table:
        asked = calls, timesteps, sigmas, mu
        if self._made is not None and self._made[0] == asked:  # a pipeline asks for the same again and again
            return self._made[1]
        config = self.config
        if mu is not None and config.use_dynamic_shifting:
            self._slot = slot_of(self._network, mu=mu)
        table = solver_table(
            make_solver(config.solver, **config.solver_options or {}),
            self._slot,
            calls=calls,
            timesteps=timesteps,
            sigmas=sigmas,
            grid=config.grid,
            works_on_D=bool(config.thresholding),
        )
        self._made = asked, table
        return table

    # The first call.

    def _begin(self, timestep: Any) -> None:
        """Find where the loop is, and what it runs from there."""
        if self._whole is None or self._table is None:
            raise ValueError("call set_timesteps before the loop")
        first = self._begin_index if self._begin_index is not None else self._found(timestep)
        self._start_at(self._whole, first)
        self._step_index = first
        self._stepper = Stepper(self._table, self._shape_D if self.config.thresholding else None)

    def _found(self, timestep: Any) -> int:
        """The call that a time belongs to, without looking at numbers on a device: a loop over `timesteps` hands out parts of it."""
        if torch.compiler.is_compiling():
            raise ValueError("a loop that is compiled does not show where it begins: call set_begin_index before it")
        if isinstance(timestep, Tensor) and timestep.numel() == 1:
            place = timestep.untyped_storage().data_ptr()
            if place == self.timesteps.untyped_storage().data_ptr():
                return int(timestep.storage_offset() - self.timesteps.storage_offset())
        return self.index_for_timestep(timestep)

    def _open(self, noise: Tensor) -> Tensor:
        """The state after a first output that is shared. It is made twice, for the network, whose batch may have each sample twice, and for
        the step: the loop goes on with the noise in hand."""
        assert self._stepper is not None
        return self._stepper.begin(noise, None if self._mean is None else self._mean.to(noise.device))

    def _place(self) -> Point | None:
        """Where the loop's state is; None outside a loop, or where it does not say."""
        index = self._step_index if self._step_index is not None else self._begin_index
        if self._whole is None or self._table is None or index is None:
            return None
        table, k = (self._table, index - self._first) if index >= self._first else (self._whole, index)
        if k == 0 and table.offset:
            return table.tableau.points[0]  # the noise, until a first output that is shared has been put to it
        return table.points[min(k, table.nfe)]

    def _shape_D(self, D: Tensor) -> Tensor:
        return threshold(D, self.config.dynamic_thresholding_ratio, 1.0, self.config.sample_max_value)

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _say(text)


@torch.compiler.assume_constant_result  # said while a loop is compiled, in place of breaking it
def _say(text: str) -> None:
    warnings.warn(text, stacklevel=5)


def _numbers(given: Sequence[float] | Tensor) -> list[float]:
    values = given.tolist() if hasattr(given, "tolist") else list(given)
    found = [float(value) for value in values]
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"timesteps and sigmas are finite numbers, got {found}")
    return found
