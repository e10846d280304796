"""The bench file: what is generated, how it is measured, and where that happens."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from evaluation.errors import EvaluationError
from evaluation.prompts import PromptSuite, known_suites, load_file, load_suite
from evaluation.systems.specification import SystemSpec
from evaluation.yaml_file import checked_sampling, misfit, read_yaml

if TYPE_CHECKING:
    from metrics.scorer import ScoreOptions

TEMPLATE = """\
# What `magicvideo bench run` makes and measures. Run it again to resume, or to add what you have added here.
folder: {name}            # database, videos and manifest; relative paths are relative to this file

systems:                  # NAME: one adapter, or a card (`magicvideo systems list`)
  sprites:full:
    magicvideo: {{preset: sprites}}
  sprites:-v2v:
    magicvideo: {{preset: sprites, arms: [-v2v]}}
  truth:
    sprites_truth: {{}}
  # cogvideox: {{card: cogvideox-5b}}
  # animatediff:
  #   diffusers: {{pipeline: AnimateDiffPipeline, width: 512, height: 512, frames: 16, steps: 25}}
  # mine:
  #   command: {{run: [python, generate.py, --prompt, "{{prompt}}", --seed, "{{seed}}", --out, "{{out}}"]}}
  # notebook:
  #   python: {{target: "model.py:generate"}}   # generate(prompt, seed) -> (frames, fps)
  # gen-2:
  #   card: gen-2
  #   imported: {{folder: videos/gen-2}}
  # vendor:
  #   http_job:
  #     model: vendor/model-1
  #     headers: {{Authorization: "Bearer ${{VENDOR_KEY}}"}}
  #     submit: {{url: "https://api.vendor.example/jobs", body: {{prompt: "{{prompt}}", seed: "{{seed}}"}}, id: id}}
  #     poll: {{url: "https://api.vendor.example/jobs/{{id}}", status: status, done: [succeeded]}}
  #     fetch: {{video: "output[0]"}}

prompts:                  # any number of sources; a text that comes twice is made once
  - suite: sprites        # `magicvideo prompts list`
    sample: 8
  # - suite: vbench
  #   categories: [human_action, scene]
  #   sample: 50
  # - suite: evalcrafter
  #   path: prompt700.txt
  # - file: prompts.txt
  # - texts: ["a red star"]

seeds: [0]
metrics: [clip, temporal] # `magicvideo metrics list`; leave out to generate only
# reference: real-videos  # folder of mp4 files, for fvd and kvd
# scoring: {{temporal_sampling: "fps:8"}}

# store: s3://bucket/videos     # a folder or an fsspec address; default: videos in folder
# database: postgresql://user@host/name
# copies: false           # the database names the videos' addresses in the store and holds no copy of them

engine:
  workers: 1              # processes that make and measure videos; on CPUs one a core is fastest
  devices: [cpu]          # e.g. [cuda:0, cuda:1], taken in turn
  attempts: 3             # tries where a failure may pass by itself
  # timeout: 600          # seconds for one video
# engine: {{ray: auto, gpus: 1}}  # instead: a Ray cluster; auto, local, or its address
"""


def _known_device(device: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise ValueError("unknown device; known: cpu, mps, cuda, cuda:0, cuda:1 and so on")
    return device


Device = Annotated[str, AfterValidator(_known_device)]


class PromptSource(BaseModel):
    """Where prompts come from: a suite, a file, or texts.

    Attributes:
        suite: a known suite.
        path: the user's copy of it.
        file: any file of prompts.
        texts: prompts themselves.
        categories: only prompts of these.
        sample: that many of them.
        seed: of the sample.
        variant: wording of the copy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    suite: str | None = None
    path: Path | None = None
    file: Path | None = None
    texts: tuple[str, ...] | None = None
    categories: tuple[str, ...] = ()
    sample: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    variant: str | None = None

    @field_validator("suite")
    @classmethod
    def _known(cls, suite: str | None) -> str | None:
        if suite is not None and suite not in known_suites():
            raise ValueError(f"unknown prompt suite; known: {', '.join(known_suites())}")
        return suite

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(value is not None for value in (self.suite, self.file, self.texts)) != 1:
            raise ValueError("give exactly one of suite, file and texts")
        if self.suite is None and (self.path or self.variant):
            raise ValueError("path and variant belong to suite")
        return self

    def load(self, base: Path) -> PromptSuite:
        """Return the prompts; relative paths are relative to ``base``."""
        if self.suite is not None:
            path = None if self.path is None else base / self.path
            found = load_suite(self.suite, path, variant=self.variant)
        elif self.file is not None:
            found = load_file(base / self.file)
        else:
            found = _of_texts(self.texts or ())
        if self.categories:
            found = found.of_categories(self.categories)
        return found if self.sample is None else found.sample(self.sample, self.seed)


class EngineSpec(BaseModel):
    """Where videos are made.

    Attributes:
        workers: processes that make and measure videos, each with its share of the cores.
        devices: taken by workers in turn.
        attempts: tries where a failure may pass by itself.
        crashes: tries of a video that ends its process.
        timeout: seconds for one video.
        ray: ``auto`` or an address for a cluster that exists, ``local`` to start one here; None for processes
            on this machine, which ``workers``, ``devices`` and ``timeout`` are for.
        gpus: accelerators a video needs, with Ray.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    workers: Annotated[int, Field(ge=1)] = 1
    devices: Annotated[tuple[Device, ...], Field(min_length=1)] = ("cpu",)
    attempts: Annotated[int, Field(ge=1)] = 3
    crashes: Annotated[int, Field(ge=1)] = 2
    timeout: Annotated[float, Field(gt=0)] | None = None
    ray: str | None = None
    gpus: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        of_processes = sorted({"workers", "devices", "timeout"} & self.model_fields_set)
        if self.ray is not None and of_processes:
            raise misfit(
                f"does not go with {', '.join(of_processes)}, which are for processes on this machine; beside ray give "
                "attempts, crashes and gpus",
                "ray",
            )
        if self.ray is None and self.gpus:
            raise misfit("belongs to ray; without it name the accelerators in devices", "gpus")
        return self


class ScoringSpec(BaseModel):
    """How videos are measured; see ``metrics.scorer.ScoreOptions``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    clip_model: str = "embedded"
    clip_weights: str | None = None
    extractor: str = "embedded"
    extractor_weights: Path | None = None
    temporal_sampling: str = "native"
    device: Device = "cpu"

    @field_validator("temporal_sampling")
    @classmethod
    def _sampling(cls, sampling: str) -> str:
        return checked_sampling(sampling)

    def options(self, base: Path, temporal_sampling: str | None = None) -> "ScoreOptions":
        """Return the scorer's options."""
        from metrics.scorer import ScoreOptions

        weights = None if self.extractor_weights is None else base / self.extractor_weights
        return ScoreOptions(
            clip_model=self.clip_model,
            clip_pretrained=self.clip_weights,
            extractor=self.extractor,
            extractor_weights=weights,
            temporal_sampling=temporal_sampling or self.temporal_sampling,
            device=self.device,
        )


class RunSpec(BaseModel):
    """What bench and ablation files have in common.

    Attributes:
        folder: of everything the run makes.
        database: URL; a SQLite file in ``folder`` if None.
        store: folder or fsspec URL of the videos; ``videos`` in ``folder`` if None.
        copies: whether the database holds the videos too, or only their addresses in the store.
        prompts: sources, in order.
        seeds: each prompt is made with each.
        metrics: names in the registry.
        reference: folder of real videos.
        scoring: how to measure.
        engine: where videos are made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    folder: Path | None = None
    database: str | None = None
    store: str | None = None
    copies: bool = True
    prompts: Annotated[tuple[PromptSource, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    metrics: tuple[str, ...] = ()
    reference: Path | None = None
    scoring: ScoringSpec = ScoringSpec()
    engine: EngineSpec = EngineSpec()

    @field_validator("database")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        from arena.database import parse_url, resolve_url
        from arena.errors import DatabaseError

        try:
            if url is not None:
                parse_url(resolve_url(url))
        except DatabaseError as error:
            raise misfit(str(error)) from error  # the value may hold a password
        return url

    @field_validator("store")
    @classmethod
    def _place(cls, place: str | None) -> str | None:
        from fsspec import available_protocols

        kind = (place or "").partition("://")[0]
        if "://" in (place or "") and kind not in available_protocols():
            raise ValueError(f"no such kind of address: {kind}; give a folder, or e.g. s3://bucket/videos")
        return place

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        from metrics.errors import MetricError
        from metrics.registry import metric_info

        for name in metrics:
            try:
                metric_info(name)
            except MetricError as error:
                raise ValueError(str(error)) from error
        return metrics

    @model_validator(mode="after")
    def _has_reference(self) -> Self:
        from metrics.registry import metric_info

        needing = [name for name in self.metrics if "reference" in metric_info(name).needs]
        if needing and self.reference is None:
            raise misfit(f"{needing[0]!r} needs reference, a folder of real videos", "metrics")
        return self


class BenchSpec(RunSpec):
    """A bench file; see ``TEMPLATE``."""

    systems: Annotated[dict[Annotated[str, Field(min_length=1)], SystemSpec], Field(min_length=1)]


def read_bench(path: Path) -> BenchSpec:
    """Read and check a bench file.

    Raises:
        EvaluationError: not such a file; line, key and what is allowed are named.
    """
    return read_yaml(path, BenchSpec)


def _of_texts(texts: tuple[str, ...]) -> PromptSuite:
    from evaluation.prompt_suites.formats import SuitePrompt

    if any(not text.strip() for text in texts) or not texts:
        raise EvaluationError("texts holds an empty prompt; write what the video should show")
    prompts = tuple(SuitePrompt(" ".join(text.split())) for text in texts)
    return PromptSuite(
        name="texts", licence="the bench's own", source="bench file", variant="original", prompts=prompts
    )
