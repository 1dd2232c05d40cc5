"""What files may hold, with types and bounds; `dode.reading.checked` applies them. Imported only where a file is read.

Strict: no number written as a string, no flag for a number. Bounds are far above what is in use and below what would cost memory
or time before anyone is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

# Numbers of one sample, of which many are held at once: 512 MB in float32.
_SAMPLE = 2**27

Name = Annotated[str, Field(max_length=2**17)]
Whole = Annotated[int, Field(ge=0, le=2**63)]
Channels = Annotated[int, Field(ge=1, le=2**20)]
Side = Annotated[int, Field(ge=1, le=2**14)]
Layers = Annotated[int, Field(ge=1, le=2**20)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
Moderate = Annotated[float, Field(ge=-1e6, le=1e6)]
ShardName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*\.safetensors$", max_length=255)]
_BY_BLOCK = Field(fail_fast=True, min_length=1, max_length=100)
Kinds = Annotated[list[Name], _BY_BLOCK]
Widths = Annotated[list[Channels], _BY_BLOCK]
Depths = Annotated[list[Layers], _BY_BLOCK]
Numbers = Annotated[list[float], Field(fail_fast=True)]


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True, defer_build=True)


class _Open(BaseModel):
    """What dode uses of a file that holds more."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True, defer_build=True)


def _triangular(rows: list[list[float]]) -> list[list[float]]:
    """Before an array of rows x rows is made of it."""
    for k, row in enumerate(rows):
        if len(row) != k + 1:
            raise ValueError(f"row {k} must have {k + 1} numbers, got {len(row)}")
    return rows


def _rectangular(numbers: Any) -> Any:
    """Lists of equal lengths, of numbers; nothing else becomes one."""
    for leaf in _leaves(numbers):
        if type(leaf) not in (int, float):
            raise ValueError(f"must hold numbers alone, got {type(leaf).__name__}")
    return numbers


def _leaves(value: Any) -> Iterator[Any]:
    if not isinstance(value, list):
        yield value
        return
    for part in value:
        yield from _leaves(part)


Triangle = Annotated[list[Numbers], Field(fail_fast=True, min_length=1), AfterValidator(_triangular)]


class IntegrandFile(_File):
    kind: Literal["epsilon", "sample"]
    factors: Numbers
    a: Triangle
    b: Triangle


class TableauFile(_File):
    """A tableau; see `Tableau.to_json`. That the parts fit each other is checked where one is made."""

    format: Literal["dode.tableau"]
    version: Annotated[int, Field(ge=1, le=1)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    solver: Name
    grid: Name
    schedule: Name
    noise_scale: float
    first: Literal["network", "mean", "zero"] = "network"
    mean: Annotated[list[Any], AfterValidator(_rectangular)] | None = None
    times: Numbers
    alphas: Numbers
    sigmas: Numbers
    a: Triangle
    b: Triangle
    integrand: IntegrandFile | None = None
    meta: dict[str, Any]


class TableauSetFile(_File):
    """Several tableaux; see `TableauSet.save`."""

    format: Literal["dode.tableau-set"]
    version: Annotated[int, Field(ge=1, le=1)]
    tableaux: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]


Square = Annotated[float, Field(ge=0)]  # a mean of squares
Figure = Annotated[list[float | None], Field(min_length=3, max_length=3)]
Errors = Annotated[list[Square | None], Field(fail_fast=True, min_length=1)]


class EndFile(_Open):
    """Figures of the errors at the end: value, low and high of the interval."""

    mean: Figure
    median: Figure
    high: Figure | None = None
    relative: Figure | None = None


class ErrorsFile(_Open):
    samples: Whole
    base: Errors
    distilled: Errors
    base_end: EndFile | None = None
    distilled_end: EndFile | None = None
    ratio: Figure | None = None
    end_difference: float | None = None


class CandidateFile(_Open):
    name: Name
    error: Square | None


class TrialFile(_Open):
    name: Name
    error: Square | None
    base_error: Square | None
    samples: Whole | None = None


class RefinedFile(_Open):
    unknowns: Whole
    iterations: Whole
    diverged: Whole
    stopped: Name


class ReferenceFile(_Open):
    name: Name
    error: Square | None
    teacher: Square | None
    rounding: Square | None = None
    samples: Whole


class DistillationFile(_Open):
    """What a distilled tableau keeps under "distillation" in its meta, as far as it is shown. Older files lack what has a default."""

    model: Name
    prediction: Name | None = None
    learn: Literal["coefficients", "times"] = "coefficients"
    effort: Name
    teacher: Name
    samples: Whole
    validation: Whole
    seed: int
    base: Name = ""
    base_grid: Name = ""
    base_times: Numbers
    directions: Annotated[list[Name], Field(min_length=0, max_length=100)]
    coefficients: Annotated[list[Numbers], Field(fail_fast=True)]
    standard_errors: Annotated[list[list[float | None]], Field(fail_fast=True)]
    kept: Annotated[list[Whole], Field(fail_fast=True)]
    unused: Annotated[list[Name], Field(min_length=0, max_length=100)] = []
    chosen: Name
    candidates: Annotated[list[CandidateFile], Field(min_length=0, max_length=10_000)]
    refined: RefinedFile | None
    trials: Annotated[list[TrialFile], Field(min_length=0, max_length=100_000)]
    reference: ReferenceFile | None = None
    fitting: ErrorsFile
    held_out: ErrorsFile | None
    seconds: float
    saved: Whole = 0
    evaluations: Annotated[dict[Name, Whole], Field(min_length=0, max_length=100)]
    warnings: Annotated[list[Name], Field(min_length=0, max_length=100)]


class DodeJson(_File):
    """What a folder's dode.json says beside diffusers' configurations."""

    space_to_depth: Annotated[int, Field(ge=1, le=64)] = 1
    null_class: Whole | None = None
    classes: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(fail_fast=True, min_length=0, max_length=2**17)] = []


class NetworkFile(_Open):
    """A network's config.json, of the classes that dode reads."""

    class_name: Name = Field(alias="_class_name")
    norm_type: Name | None = None
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    sample_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    patch_size: Side | None = None
    class_embed_type: Name | None = None
    num_class_embeds: Channels | None = None
    num_embeds_ada_norm: Channels | None = None
    time_embedding_type: Name | None = None
    time_embedding_dim: Channels | None = None
    num_train_timesteps: Channels | None = None
    down_block_types: Kinds | None = None
    up_block_types: Kinds | None = None
    block_out_channels: Widths | None = None
    layers_per_block: Layers | Depths | None = None
    num_layers: Layers | None = None
    transformer_layers_per_block: Layers | list[Any] | None = None
    num_attention_heads: Channels | Widths | None = None
    attention_head_dim: Channels | Widths | None = None
    pos_embed_max_size: Side | None = None
    norm_num_groups: Channels | None = None
    norm_eps: Annotated[float, Field(gt=0, le=1)] | None = None
    dropout: Annotated[float, Field(ge=0, le=1)] | None = None
    downsample_padding: Annotated[int, Field(ge=0, le=1)] | None = None
    flip_sin_to_cos: bool | None = None
    freq_shift: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> NetworkFile:
        sides = self.sample_size if isinstance(self.sample_size, list) else [self.sample_size or 0] * 2
        if (self.in_channels or 1) * sides[0] * sides[1] > _SAMPLE:
            raise ValueError(f"a sample of {sides[0]} x {sides[1]} is larger than any network's")
        return self

    @property
    def layers(self) -> int:
        """How many layers there are at least; each has weights."""
        by_block = self.layers_per_block or 0
        residual = sum(by_block) if isinstance(by_block, list) else by_block * len(self.block_out_channels or [0])
        attention = sum(n for n in _leaves(self.transformer_layers_per_block) if type(n) is int)
        return max(residual, attention, self.num_layers or 0)


class SchedulerFile(_Open):
    """A scheduler_config.json: what `dode.models.scheduler_configs` takes over. The class says which keys count."""

    class_name: Name = Field(alias="_class_name", default="")
    prediction_type: Name | None = None
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_start: Share = 1e-4
    beta_end: Share = 0.02
    beta_schedule: Name = "linear"
    trained_betas: Annotated[list[Share], Field(fail_fast=True, min_length=2, max_length=100_000)] | None = None
    rescale_betas_zero_snr: bool | None = None
    snr_shift_scale: Positive = 1.0
    timestep_type: Name | None = None
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    sigma_data: Positive = 0.5
    use_karras_sigmas: bool | None = None
    use_exponential_sigmas: bool | None = None
    use_beta_sigmas: bool | None = None
    use_flow_sigmas: bool | None = None
    flow_shift: Positive = 1.0
    shift: Positive = 1.0
    use_dynamic_shifting: bool | None = None
    time_shift_type: Name = "exponential"
    base_shift: Moderate = 0.5
    max_shift: Moderate = 1.15
    base_image_seq_len: Moderate = 256
    max_image_seq_len: Moderate = 4096
    invert_sigmas: bool | None = None
    s: Share = 0.008
    scaler: Positive = 1.0
    thresholding: bool | None = None
    variance_type: Name | None = None


class WeightsIndex(_Open):
    """Which of the files that weights are split over has a tensor; all are in the index's own folder."""

    metadata: dict[str, Any]
    weight_map: Annotated[dict[Name, ShardName], Field(min_length=1, max_length=2**17)]
