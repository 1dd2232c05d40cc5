"""Where the cells of a comparison are made: one network, one reference, one set of noises; what is made is kept, and made once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dode.amplification import rounding_note
from dode.cache import Cache
from dode.conditions import Condition, cycle, hash_condition, hash_tensor
from dode.denoisers import Denoiser
from dode.distances import mean_square
from dode.distillation import Distilled
from dode.distillation.batch import Batch
from dode.fingerprint import hash_network
from dode.host import bytes_of
from dode.report.cells import Wanted, base_tableau, learned
from dode.report.course import Courses, Decode, noises_followed
from dode.report.measure import measured
from dode.report.parts import Parts
from dode.report.records import Records
from dode.report.reference import CHECKS, reference_error, reference_run, reference_tableau, report_noise
from dode.report.results import Reference, Result, reference_from_json, result_from_json, to_json
from dode.report.scores import Scores
from dode.report.thumbnails import strip
from dode.tableau import Tableau

# In the folder of a cache: the records, and what a distillation that is under way goes on from.
RECORDS, UNDER_WAY = "comparison.jsonl", "distilling"
# And end points of the reference, features of its images, its states.
_TENSORS = ("reference", "seen", "teacher")
# Noises that the network is known by, and evaluations of the run at whose times it is asked for that.
_PROBES, _PROBED_NFE = 3, 20


def _as_it_is(made: Distilled) -> Distilled:
    return made


@dataclass(frozen=True, eq=False)
class Subject:
    """What is compared, beside the network itself: what a pipeline knows of its samples and of its tableaux.

    Attributes:
        decode: from samples (n, *shape) to images (n, 1 or 3, height, width) in [-1, 1]; None for samples that are images, or nothing to
            look at.
        identity: all that the network's outputs depend on and that a few of them may not show, such as prompts.
        guidance, condition: words for a reader; "" for what the denoiser says.
        options: of every distillation.
        finish: what completes a distilled result.
        notes: what a reader has to know.
    """

    decode: Decode | None = None
    identity: Condition = field(default_factory=dict)
    guidance: str = ""
    condition: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Distilled], Distilled] = _as_it_is
    notes: tuple[str, ...] = ()


def network_key(denoiser: Denoiser, cond: Condition, seed: int, subject: Subject) -> str:
    """A hash of what the network gives for the condition, by its weights, its settings and its outputs for a few noises.

    Raises:
        TypeError: a condition that cannot be told from another one.
        ValueError: the shape of a sample is not known.
    """
    noise = report_noise(denoiser, _PROBES, seed)
    tableau = reference_tableau(denoiser.schedule, _PROBED_NFE)
    digest = hashlib.sha256(denoiser.schedule.fingerprint.encode())
    hash_condition(digest, {"identity": dict(subject.identity), "condition": dict(cond)})
    # A denoiser of its own: its evaluations are no part of the comparison's.
    hash_network(digest, denoiser.replace(), tableau.points[: tableau.rows], noise, cycle(cond, 0, len(noise)))
    return digest.hexdigest()


class Making:
    """Makes the reference and the cells.

    Args:
        denoiser, cond, subject: what is compared.
        key: from `network_key`.
        folder: of the cache.
        samples, seed: the noises.
        reference_nfe: evaluations of the reference.
        shown: how many samples are pictured.
        extractor, images: of image metrics; as `dode.report.scores.Scores`.
        restart: forget what the cache holds.
        known: the network can be told from others, so that runs of it are found again in a cache.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        cond: Condition,
        subject: Subject,
        key: str,
        folder: Path,
        *,
        samples: int,
        seed: int,
        reference_nfe: int,
        shown: int,
        extractor: Any = None,
        images: Any = None,
        restart: bool = False,
        known: bool = True,
    ) -> None:
        self.denoiser, self.cond, self.subject, self.key = denoiser, cond, subject, key
        self.shown, self.seed, self._folder, self._known = shown, seed, folder, known
        folder.mkdir(parents=True, exist_ok=True)
        for name in _TENSORS if restart else ():
            for path in folder.glob(f"{name}-*.safetensors"):
                path.unlink()
        self.records = Records(folder / RECORDS, key, lambda: denoiser.evaluations, restart, strict=True)
        self._run = reference_run(reference_nfe)
        tableau = reference_tableau(denoiser.schedule, reference_nfe)
        self.parts = Parts(denoiser, cond, samples, seed, tableau, subject.decode, Cache(folder, strict=True), key)
        looks = self._first(1)[0]
        looks = looks if subject.decode is None else subject.decode(looks.to(denoiser.device))
        self.scores = Scores(self.parts, tuple(looks.shape[1:]), extractor, images)

    def reference(self) -> Reference:
        """What cells are compared with.

        Raises:
            FloatingPointError: it is not finite.
            OSError: it cannot be kept.
        """
        return reference_from_json(_part_of(Reference, self._reference))

    def result(self, wanted: Wanted) -> Result:
        """A cell.

        Raises:
            FloatingPointError: the reference is not finite.
            OSError: what was made cannot be kept.
        """
        made = self._made(wanted)
        data = {"cell": to_json(wanted.cell), **made}
        if made["skipped"]:
            return result_from_json(data)
        tableau = Tableau.from_json(made["tableau"])
        found = self.records.known(
            {"what": "cell", "tableau": replace(tableau, meta={}).digest, **self._measured_on},
            lambda: to_json(measured(tableau, self.parts, self._power, self._courses, self.scores, self.shown)),
        )
        rounding = rounding_note(tableau, self.denoiser.output, self.denoiser.noise_dtype)
        notes = [*made["notes"], *found["notes"], *([rounding] if rounding else [])]
        kept = {name: found[name] for name in ("errors", "figures", "course", "pictures", "sampling_seconds")}
        return result_from_json({**data, **kept, "notes": list(dict.fromkeys(notes))})

    def _made(self, wanted: Wanted) -> dict[str, Any]:
        """The tableau of a cell and what it took, or why there is none: fields of a result, as JSON."""
        nothing = _part_of(Result, {**to_json(Result(wanted.cell, None, np.empty(0))), "cell": None})
        del nothing["cell"]
        if not wanted.distilled:
            try:
                tableau = wanted.tableau or base_tableau(wanted, self.denoiser.schedule)
            except ValueError as error:
                return {**nothing, "skipped": " ".join(str(error).split())}
            return {**nothing, "tableau": to_json(tableau)}
        cell = wanted.cell
        asked = {"what": "tableau", "solver": cell.solver, "nfe": cell.nfe, "method": cell.method, "seed": self.seed}
        found = self.records.known(
            asked,
            lambda: learned(
                self.denoiser,
                wanted,
                self.cond,
                seed=self.seed,
                cache=self._folder / UNDER_WAY if self._known else None,
                options=self.subject.options,
                finish=self.subject.finish,
            ),
        )
        return {**nothing, **{name: found[name] for name in nothing if name in found}}

    @property
    def _measured_on(self) -> dict[str, Any]:
        """What the figures of a cell depend on beside its tableau."""
        return {"parts": self.parts.key, "shown": self.shown, "scores": self.scores.key}

    @cached_property
    def _reference(self) -> dict[str, Any]:
        return self.records.known({"what": "reference", **self._measured_on}, self._make_reference)

    @cached_property
    def _power(self) -> Any:
        return self.reference().power

    @cached_property
    def _courses(self) -> Courses:
        count = noises_followed(self.parts.tableau, bytes_of(self._first(1)[0]))
        noise, cond = self._first(min(self.parts.samples, count))
        cache = self.parts.cache if self._known else None
        return Courses(self.denoiser, self.parts.tableau, noise, cond, self.subject.decode, cache)

    def _first(self, count: int) -> tuple[torch.Tensor, Condition]:
        """The first noises with their condition."""
        return report_noise(self.denoiser, max(count, 2), self.seed)[:count], cycle(self.cond, 0, count)

    def _make_reference(self) -> dict[str, Any]:
        power, pictures, noises = [], [], hashlib.sha256()
        few: Batch | None = None
        for part in self.parts:
            hash_tensor(noises, part.noise)
            power.append(mean_square(part.end))
            if part.first == 0:
                few = Batch(part.noise[:CHECKS], cycle(self.cond, 0, len(part.noise[:CHECKS])), [part.end[:CHECKS]])
            if part.first < self.shown and self.scores.possible:
                pictures.append(part.images[: self.shown - part.first])
        assert few is not None
        nfe = self.parts.tableau.nfe
        found = Reference(
            name=str(self._run),
            nfe=nfe,
            error=reference_error(self.denoiser, few, self._run.nfe),
            power=np.concatenate(power),
            figures=self.scores.reference_figures(),
            course=self._courses.reference(),
            pictures=strip(torch.cat(pictures)) if pictures else b"",
            seconds=self.parts.seconds,
        )
        evaluations = nfe * (self.parts.samples + self._courses.noises + len(few))
        return {**to_json(found), "evaluations": evaluations, "noise": noises.hexdigest()}

    @property
    def hashes(self) -> dict[str, str]:
        """Of the network with its condition, and of the noise."""
        return {"network": self.key[:16], "noise": self._reference["noise"][:16]}


def _part_of(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that a record has."""
    return {each.name: record[each.name] for each in fields(kind)}
