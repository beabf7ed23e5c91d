"""Experiments as data: frozen, validated configs and run keys.

An experiment file names a data set, a network, a recipe, arms (named changes of any of these) and seeds. A run's key is
a hash of everything that determines its result.

Every mistake raises `SpecError`, with one line for each mistake that names the field, the value and what is valid. This
module imports neither torch nor FFCV, so that planning is quick.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from reproduce.config import ADDED

# Exported from here as well, for callers that use them with the configs of this module.
from reproduce.config import Config as Config
from reproduce.config import SpecError as SpecError
from reproduce.config import from_yaml as from_yaml
from reproduce.config import validated as validated
from reproduce.errors import did_you_mean

Reduction = Literal["reduced", "unreduced", "naive"]
Branches = Literal["mixed", "1x1", "3x3", "5x5"]
Auxiliary = Literal["none", "aux1", "aux2", "both"]
Schedule = Literal["constant", "step", "paper", "poly", "cosine", "one-cycle"]
ProbeName = Literal["train_accuracy", "channel_clusters"]
Fraction = Annotated[float, Field(gt=0, le=1)]

SMALLEST_INPUT = 32  # the network halves its input five times

ALL_PROBES: tuple[ProbeName, ...] = get_args(ProbeName)


def _in_fixed_order(probes: tuple[ProbeName, ...]) -> tuple[ProbeName, ...]:
    return tuple(name for name in ALL_PROBES if name in probes)


Probes = Annotated[tuple[ProbeName, ...], AfterValidator(_in_fixed_order)]
"""Names of probes in a fixed order, so that their order in a file does not change a run's key."""


class NetworkConfig(Config):
    """One member of the GoogLeNet family (Szegedy et al. 2014, arXiv:1409.4842, "the paper" below)."""

    reduction: Reduction = "reduced"
    """1x1 convolutions of the Inception modules.

    reduced: before the 3x3 and 5x5 convolutions and behind the pool (the paper's Fig. 2b).
    unreduced: only behind the pool. Widths are those of "reduced".
    naive: none; the pooled input is concatenated as it is, and widths grow (the paper's Fig. 2a)."""
    aux: Auxiliary = "both"
    """Auxiliary classifiers: aux1 after module 4a, aux2 after module 4d (the paper's section 5)."""
    aux_weight: float = Field(0.3, gt=0)
    """Weight of each auxiliary classifier's loss; that of the main classifier is 1."""
    aux_dropout: float = Field(0.7, ge=0, lt=1)
    """Dropout probability in the auxiliary classifiers."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout probability before the main classifier's last layer."""
    norm: Literal["none", "batch"] = "batch"
    """Batch normalisation after every convolution, or none."""
    head: Literal["avgpool", "fc"] = "avgpool"
    """The main classifier.

    avgpool: global average pooling, dropout, linear.
    fc: the feature maps flattened (7x7x1024 at 224 pixels), linear to 1024, ReLU, dropout, linear; this is what average
    pooling replaced (the paper's section 5)."""
    large_kernel: Literal["5x5", "3x3"] = "5x5"
    """Kernel of the third branch. TF-slim and torchvision have 3x3 (pytorch/vision #906)."""
    pooling: Literal["paper", "port"] = "paper"
    """paper: a 3x3 pool before module 5a; auxiliary classifiers average 5x5 pixels with stride 3.
    port: as in torchvision, a 2x2 pool before module 5a; auxiliary classifiers average adaptively to 4x4."""
    branches: Annotated[Branches, ADDED] = "mixed"
    """Convolution kernels of the Inception modules.

    mixed: three kernels side by side.
    1x1, 3x3, 5x5: a 1x1 reduction, then this kernel alone, with as many output channels and multiply-adds as the three
    together. The pool branch stays."""
    classes: int = Field(1000, ge=2)
    """Number of classes; an experiment takes it from its data set."""
    resolution: int = Field(224, ge=SMALLEST_INPUT)
    """Nominal side of the input in pixels, for which the linear layers of the classifiers are sized. An experiment
    takes it from its recipe."""

    @model_validator(mode="after")
    def _coherent(self) -> NetworkConfig:
        if self.branches != "mixed":
            for field, needed in (("reduction", "reduced"), ("large_kernel", "5x5")):
                if getattr(self, field) != needed:
                    raise ValueError(
                        f"branches: {self.branches} is matched to the module with {field} {needed}, not "
                        f"{getattr(self, field)}; use mixed, or {field} {needed}"
                    )
        return self


class DataConfig(Config):
    """A prepared data set: a folder with `train.beton`, `val.beton` and `manifest.json`."""

    path: str
    """The folder, relative to the data root (`--data`, `$DEEPER_DATA` or `./data`)."""
    source: Literal["folder", "imagenette", "fashion-mnist", "synthetic"] | None = None
    """What `deeper run --prepare` may prepare it from; None if it is prepared by hand."""
    train_fraction: Fraction = 1.0
    """Share of the training images that is used: the first of a fixed shuffle, balanced over the classes as far as
    possible."""


class RecipeConfig(Config):
    """How a network is trained."""

    epochs: int = Field(ge=1)
    """Passes over the training images."""
    batch_size: int = Field(ge=1)
    """Images of one optimiser step, over all workers."""
    resolution: int = Field(224, ge=SMALLEST_INPUT)
    """Side of the training and validation images in pixels."""
    resolution_start: int | None = Field(None, ge=SMALLEST_INPUT)
    """Progressive resizing: the side of the training images grows linearly from this one to `resolution` over the first
    three quarters of the epochs, in steps of 16 pixels. None: no resizing."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up.

    constant: not at all.
    step: times `decay` every `decay_epochs`.
    paper: step with 0.96 and 8 epochs (the paper's section 6).
    poly: (1 - t)^`power`, t from 0 to 1 (Caffe).
    cosine: a half cosine to 0.
    one-cycle: linearly to 0, after a warm-up from 1/25 of the peak."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs in which the learning rate rises linearly to its peak."""
    decay: float = Field(0.96, gt=0, lt=1)
    """Factor of the schedule "step"."""
    decay_epochs: float = Field(8.0, gt=0)
    """Epochs between two decays of the schedule "step"."""
    power: float = Field(0.5, gt=0)
    """Exponent of the schedule "poly"."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov's momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """L2 penalty of SGD."""
    decay_norm_and_bias: bool = True
    """Apply weight decay also to biases and to the parameters of normalisation."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the training loss, for every classifier."""
    averaging: Literal["none", "ema", "polyak"] = "none"
    """Weights that are evaluated: the last ones, an exponential average, or the mean over all steps (Polyak)."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Decay of the exponential average in one step."""
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Range of the area of training crops, as a share of the image (the paper's section 6)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the aspect ratio (width over height) of training crops."""
    flip: bool = True
    """Mirror half of the training images."""
    photometric: Annotated[bool, ADDED] = False
    """Distort brightness, contrast, colour and lighting of training images (the paper's section 6)."""
    val_crop: Fraction = 0.875
    """Side of the central validation crop, as a share of the image's shorter side (0.875 is 224 of 256 pixels)."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 autocast if the device has bf16 arithmetic, otherwise float32."""

    @model_validator(mode="after")
    def _coherent(self) -> RecipeConfig:
        if self.resolution_start is not None and self.resolution_start > self.resolution:
            raise ValueError(
                f"resolution_start: {self.resolution_start} is above resolution {self.resolution}; "
                f"use at most {self.resolution}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs: {self.warmup_epochs} leaves nothing of {self.epochs} epochs; "
                f"use less than {self.epochs}"
            )
        for name in ("crop_scale", "crop_ratio"):
            minimum, maximum = getattr(self, name)
            if not 0 < minimum <= maximum:
                raise ValueError(f"{name}: [{minimum}, {maximum}] is not a range; give [min, max] with 0 < min <= max")
        return self


class ResourcesConfig(Config):
    """The resources of one run. Only `workers` and `deterministic` count in a run's key."""

    workers: int = Field(1, ge=1)
    """Number of DDP ranks of a run."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPU cores of each worker."""
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """GPUs of each worker: 1 for a whole GPU, 0 for none. With a fraction, several runs of one worker share a GPU, and
    each may use that share of its memory: 0.25 places four runs on each GPU."""
    deterministic: bool = False
    """On GPUs, use kernels that give the same bits each time and choose them without timing. Two runs of one key are
    then equal bit for bit, also if one was resumed. On CPUs every run is deterministic."""
    compile: bool = False
    """Compile the parts of the network with torch.compile for training. Results change by rounding only, so the key
    stays the same."""
    retries: int = Field(2, ge=0)
    """How many times a failed run is tried again from its last checkpoint, unless its own loss is the reason."""

    def workers_within(self, cpus: int, gpus: int) -> int:
        """How many workers fit on a node with this many CPU cores and GPUs. A worker's share lies within one GPU."""
        by_cpus = cpus // self.cpus_per_worker
        if self.gpus_per_worker == 0:
            return by_cpus
        return min(by_cpus, gpus * int(1 / self.gpus_per_worker + 1e-9))

    @model_validator(mode="after")
    def _coherent(self) -> ResourcesConfig:
        if 0 < self.gpus_per_worker < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker: {self.gpus_per_worker:g} with {self.workers} workers: NCCL takes one worker a GPU; "
                "give each a whole GPU (1), or use workers: 1"
            )
        return self


class ArmConfig(Config):
    """A named change of an experiment: the fields given here replace those of the experiment."""

    network: dict[str, Any] = {}
    """Changed fields of the network."""
    recipe: dict[str, Any] = {}
    """Changed fields of the recipe."""
    data: dict[str, Any] = {}
    """Changed fields of the data set."""
    description: str = ""
    """What the arm is, in a few words, for reports."""


class Seeds(Config):
    """Seeds of a run. Initialisation, order and augmentation have separate generators, so each can vary alone."""

    initialisation: int = Field(ge=0)
    order: int = Field(ge=0)
    augmentation: int = Field(ge=0)

    @classmethod
    def of(cls, seed: int) -> Seeds:
        """The same seed for all three."""
        return cls(initialisation=seed, order=seed, augmentation=seed)


class RunConfig(Config):
    """Everything that determines a run's result, with all defaults filled in."""

    data: DataConfig
    data_hash: str
    """Hash in the manifest of the prepared files. Two data sets with the same hash hold the same images."""
    network: NetworkConfig
    recipe: RecipeConfig
    seeds: Seeds
    workers: int = Field(ge=1)
    deterministic: Annotated[bool, ADDED] = False
    probes: Annotated[Probes, ADDED] = ALL_PROBES
    """Measurements of the finished network."""

    @property
    def key(self) -> str:
        """The identity of the run, 12 hexadecimal digits. Of the data set, only its content and share count."""
        content = _keyed(self)
        content["data"] = {"hash": content.pop("data_hash"), "train_fraction": self.data.train_fraction}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _keyed(config: Config) -> dict[str, Any]:
    """The fields of a config that count in a key, as nested dictionaries."""
    fields = type(config).model_fields
    return {
        name: _keyed(value) if isinstance(value, Config) else value
        for name, value in config
        if ADDED not in fields[name].metadata or value != fields[name].default
    }


class PlannedRun(Config):
    """A run with its names: experiment, arm and seed."""

    experiment: str
    arm: str
    seed: int
    config: RunConfig

    @property
    def key(self) -> str:
        return self.config.key

    @property
    def name(self) -> str:
        return f"{self.arm} s{self.seed}"


class ExperimentConfig(Config):
    """The content of an experiment file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the experiment: lower-case letters, digits, dots, underscores and hyphens."""
    description: str = ""
    """What the experiment compares, in one line."""
    data: DataConfig
    """The data set of all arms."""
    network: dict[str, Any] = {}
    """Fields of the network that all arms share."""
    recipe: RecipeConfig
    """The recipe of all arms."""
    resources: ResourcesConfig = ResourcesConfig()
    """The resources of each run."""
    probes: Probes = ALL_PROBES
    """Measurements of each finished network.

    train_accuracy: accuracy on training images without augmentation and dropout.
    channel_clusters: whether correlated channels gather in one branch of an Inception module."""
    arms: dict[str, ArmConfig] = Field(min_length=1)
    """The networks that are compared, by name."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """Seeds of the runs: one run for each arm and seed."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, content: Any) -> Any:
        """YAML reads a section whose fields are all commented out as null; it is a section that changes nothing."""
        if not isinstance(content, Mapping):
            return content
        return {
            name: value for name, value in content.items() if value is not None or name not in ("network", "resources")
        }

    @model_validator(mode="after")
    def _coherent(self) -> ExperimentConfig:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; give each seed once")
        for section in (self.network, *(arm.network for arm in self.arms.values())):
            for fixed, source in (("classes", "the data set"), ("resolution", "recipe.resolution")):
                if fixed in section:
                    raise ValueError(f"network.{fixed}: {section[fixed]} is taken from {source}; leave it out here")
        return self


# --- reading files -------------------------------------------------------------------------------------


def shipped_experiments() -> list[str]:
    """The names of the experiments that are part of this package, sorted."""
    folder = resources.files("reproduce") / "experiments"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_experiment(name_or_path: str | Path) -> ExperimentConfig:
    """Read an experiment.

    Args:
        name_or_path: The name of a shipped experiment, or the path of a file (`*.yaml`, `*.yml`).

    Raises:
        SpecError: There is no such experiment, or it is not valid.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            shipped = ", ".join(shipped_experiments())
            raise SpecError(f"experiment: {path}: no such file; give the path of a file, or one of {shipped}")
        text = path.read_text(encoding="utf-8")
    else:
        names = shipped_experiments()
        if str(name_or_path) not in names:
            hint = did_you_mean(str(name_or_path), names)
            raise SpecError(
                f"experiment: {name_or_path!r} is neither a file (*.yaml) nor one of {', '.join(names)}{hint}"
            )
        text = (resources.files("reproduce") / "experiments" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return from_yaml(ExperimentConfig, text, what="an experiment", where=str(name_or_path))
