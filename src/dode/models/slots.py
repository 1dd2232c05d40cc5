"""What a loop of diffusers sees where its scheduler is: the time that it hands to the network, what it scales the network's input by,
and what the network's output says of the sample.

For most networks the loop does nothing: time, state and output are dode's own. The networks of EDM are scaled by their scheduler, and
the time of some flows runs from the noise to the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dode.grids import Point
from dode.models.scheduler_configs import SchedulerConfig
from dode.schedules import Flow, NoiseSchedule
from dode.tableau import output_to_sample

# diffusers' stand-in for the infinite sigma / alpha at a zero SNR.
LARGEST_SIGMA = 2.0**12


@dataclass(frozen=True)
class Slot:
    """The place of a scheduler.

    Attributes:
        schedule: the network's noise schedule.
        prediction: what the network gives: "epsilon", "sample", "v", "flow"; "edm" where it is preconditioned.
        sigma_data: standard deviation of the data of a preconditioned network; 0 for others.
        negative: it was trained with -c_out.
        towards_data: its time is `t_max - t`, and it gives data - noise.
    """

    schedule: NoiseSchedule
    prediction: str
    sigma_data: float = 0.0
    negative: bool = False
    towards_data: bool = False

    @property
    def scales(self) -> bool:
        """Whether the network's input is scaled."""
        return bool(self.sigma_data)

    def time(self, t: float) -> float:
        """What the network is given for the schedule's time t: log(sigma) / 4 where it is preconditioned (Karras et al. 2022, table 1)."""
        if self.sigma_data:
            return 0.25 * math.log(max(t, 1e-30))
        return self.schedule.t_max - t if self.towards_data else t

    def time_of(self, given: float) -> float:
        """Inverse of `time`."""
        if self.sigma_data:
            return math.exp(4 * given)
        return self.schedule.t_max - given if self.towards_data else given

    def point(self, t: float) -> Point:
        """A time of the schedule with its alpha and sigma."""
        return Point(t, float(self.schedule.alpha(t)), float(self.schedule.sigma(t)))

    def noise_level(self, point: Point) -> float:
        """What diffusers calls sigma: a flow's own, sigma / alpha of others."""
        return point.sigma if isinstance(self.schedule, Flow) else min(point.rho, LARGEST_SIGMA)

    def input_scale(self, point: Point) -> float:
        """c_in: what a state is multiplied by for the network."""
        return 1 / math.hypot(point.sigma, self.sigma_data) if self.sigma_data else 1.0

    def conversion(self, point: Point) -> tuple[float, float]:
        """u and w with D = u x + w N, for the state x of the schedule and the output N as the loop has it.

        Raises:
            ValueError: N says nothing of D there.
        """
        if self.sigma_data:
            power = point.sigma**2 + self.sigma_data**2
            c_out = point.sigma * self.sigma_data / math.sqrt(power)
            return self.sigma_data**2 / power, -c_out if self.negative else c_out
        u, w = output_to_sample(self.prediction, point)
        return (u, -w) if self.towards_data else (u, w)


def slot_of(config: SchedulerConfig, mu: float = 1.0) -> Slot:
    """The slot of a scheduler's configuration.

    Args:
        config: the configuration.
        mu: the shift that a pipeline gives to its scheduler, for a flow whose shift depends on the size of the image. It moves the
            schedule's even grid and nothing else: any will do where no grid is made.

    Raises:
        ValueError: a scheduler without an ODE of a known schedule, a prediction that is not known, or a network that its own pipeline does
            not call as others do.
    """
    if config.scores:
        raise ValueError(f"{config.name} is stepped by a loop of its own: give dode.load(network, schedule=...) in its place")
    schedule, scaling = config.schedule(mu=mu), config.preconditioning
    sigma_data, negative = scaling or (0.0, False)
    return Slot(schedule, config.prediction, sigma_data, negative, config.towards_data)
