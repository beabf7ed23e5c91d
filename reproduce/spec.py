"""Define the configs of experiments and runs, and the keys of runs.

An experiment file names a data set, a network, a recipe, arms (named changes of any of these) and seeds. A run's key is
a hash of everything that determines its result up to rounding. A config that is not valid raises `SpecError`, with one
line for each mistake. This module imports neither torch nor FFCV, so that planning is quick.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from reproduce.analysis import AnalysisConfig
from reproduce.config import ADDED, EXPERIMENT_NAME, ArmName, DataPath

# Exported from here as well.
from reproduce.config import Config as Config
from reproduce.config import from_yaml as from_yaml
from reproduce.config import validated as validated
from reproduce.errors import SpecError as SpecError
from reproduce.experiments import experiment_path
from reproduce.experiments import shipped_experiments as shipped_experiments
from reproduce.resources import ResourcesConfig as ResourcesConfig
from reproduce.text.yaml_files import read_text

Reduction = Literal["reduced", "unreduced", "naive"]
PrecisionName = Literal["auto", "float32", "bf16"]
Branches = Literal["mixed", "1x1", "3x3", "5x5"]
Auxiliary = Literal["none", "aux1", "aux2", "both"]
Schedule = Literal["constant", "step", "paper", "poly", "cosine", "one-cycle"]
ProbeName = Literal["train_accuracy", "channel_clusters"]
WriteMode = Literal["auto", "jpg", "raw", "proportion"]
Fraction = Annotated[float, Field(gt=0, le=1)]

SMALLEST_INPUT, LARGEST_INPUT = 32, 4096  # the network halves its input five times

ALL_PROBES: tuple[ProbeName, ...] = get_args(ProbeName)


def _in_fixed_order(probes: tuple[ProbeName, ...]) -> tuple[ProbeName, ...]:
    return tuple(name for name in ALL_PROBES if name in probes)


Probes = Annotated[tuple[ProbeName, ...], AfterValidator(_in_fixed_order)]
"""Names of probes. They are put into a fixed order, so that their order in a file does not change a run's key."""


class NetworkConfig(Config):
    """A network of the GoogLeNet family (Szegedy et al. 2014, arXiv:1409.4842)."""

    reduction: Reduction = "reduced"
    """Positions of the 1x1 convolutions that reduce channels in the Inception modules.

    reduced: before the 3x3 and 5x5 convolutions and after the pooling (Szegedy et al. 2014, Fig. 2b).
    unreduced: only after the pooling. The modules have the same output channels as with "reduced".
    naive: none. The pooled input is concatenated unchanged, so that channels grow from module to module (Fig. 2a)."""
    aux: Auxiliary = "both"
    """Auxiliary classifiers, for training only: aux1 (after module 4a), aux2 (after module 4d), both, or none
    (Szegedy et al. 2014, section 5)."""
    aux_weight: float = Field(0.3, gt=0)
    """Weight of each auxiliary classifier's loss. The loss of the main classifier has weight 1."""
    aux_dropout: float = Field(0.7, ge=0, lt=1)
    """Dropout probability before the last layer of the auxiliary classifiers."""
    aux_input_dropout: Annotated[float, ADDED] = Field(0.0, ge=0, lt=1)
    """Dropout probability before their first linear layer: 0 in the paper, 0.5 in the listing of the lecture notes."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout probability before the main classifier's last layer."""
    norm: Literal["none", "batch"] = "batch"
    """Normalisation after every convolution: batch normalisation, or none."""
    head: Literal["avgpool", "fc"] = "avgpool"
    """The main classifier.

    avgpool: global average pooling, dropout, and a linear layer.
    fc: the flattened feature maps (7x7x1024 at 224 pixels), a linear layer to 1024 units, ReLU, dropout, and a linear
    layer. Average pooling replaced these fully connected layers (Szegedy et al. 2014, section 5)."""
    large_kernel: Literal["5x5", "3x3"] = "5x5"
    """Kernel of the third branch of the Inception modules: 5x5 as in Szegedy et al. 2014, or 3x3 as in TF-slim and
    torchvision (pytorch/vision #906)."""
    pooling: Literal["paper", "port"] = "paper"
    """Pooling before module 5a and in the auxiliary classifiers.

    paper: 3x3 max pooling, and 5x5 average pooling with stride 3 (Szegedy et al. 2014).
    port: 2x2 max pooling, and adaptive average pooling to 4x4, as in torchvision."""
    branches: Annotated[Branches, ADDED] = "mixed"
    """Convolution kernels of the Inception modules.

    mixed: three parallel branches with 1x1, 3x3 and 5x5 kernels.
    1x1, 3x3, 5x5: one branch in their place, a 1x1 reduction followed by this kernel, with the same output channels and
    about the same multiply-adds as the three together. The pooling branch stays."""
    classes: int = Field(1000, ge=2)
    """Number of classes. In an experiment it follows from the data set."""
    resolution: int = Field(224, ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    """Nominal side of the input in pixels, for which the linear layers of the classifiers are sized. In an experiment,
    it follows from the recipe."""

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
    """A prepared data set, which is a folder with `train.beton`, `val.beton` and `manifest.json`."""

    path: DataPath
    """Folder of the prepared data set, relative to the data root (`--data`, `$DEEPER_DATA` or `./data`)."""
    source: Literal["folder", "imagenette", "fashion-mnist", "synthetic"] | None = None
    """Source from which `deeper run --prepare` prepares the data set if it is missing. Without a source, it must be
    prepared beforehand with `deeper data prepare`."""
    max_resolution: int | None = Field(None, ge=16)
    """Option of `deeper data prepare` with which the data set has to be prepared. None allows any. It enters no run's
    key, which has the hash of the prepared data; so do the next two."""
    write_mode: WriteMode | None = None
    """Option of `deeper data prepare`, likewise."""
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    """Option of `deeper data prepare`, likewise."""
    train_fraction: Fraction = 1.0
    """Share of the training images that is used: chosen by a fixed shuffle, balanced over the classes if possible."""

    @property
    def preparing(self) -> dict[str, Any]:
        """The options of preparing that are named, by their names."""
        return {name: value for name in PREPARING if (value := getattr(self, name)) is not None}


PREPARING = ("max_resolution", "write_mode", "jpeg_quality")
"""The fields of `DataConfig` that are options of `deeper data prepare`."""


def prepare_command(source: str, folder: str, options: Mapping[str, object]) -> str:
    """Write the command that prepares a data set.

    Args:
        source: The source of the images, as the command takes it.
        folder: The path of the folder for the prepared files.
        options: Values of the options in `PREPARING` that the command has, by their names.
    """
    return " ".join([f"deeper data prepare {source} --output {shlex.quote(folder)}", *option_texts(options)])


def option_texts(options: Mapping[str, object]) -> list[str]:
    """Write options of preparing as `deeper data prepare` takes them, such as "--max-resolution 96"."""
    return [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]


class RecipeConfig(Config):
    """The recipe, which configures how a network is trained and validated."""

    epochs: int = Field(ge=1, le=1_000_000)
    """Number of passes over the training images."""
    batch_size: int = Field(ge=1, le=10**9)
    """Images of one optimiser step, over all workers."""
    resolution: int = Field(224, ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    """Side of the training and validation images in pixels."""
    resolution_start: int | None = Field(None, ge=SMALLEST_INPUT, le=LARGEST_INPUT)
    """Side of the training images in the first epoch, in pixels, for progressive resizing. The side grows to
    `resolution` over the first three quarters of the epochs, in steps of 16 pixels. None: all epochs have the
    side `resolution`."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate, reached at the end of the warm-up."""
    schedule: Schedule = "cosine"
    """Decrease of the learning rate after the warm-up.

    constant: none.
    step: a multiplication by `decay` every `decay_epochs` epochs, counted from the start of the training.
    paper: the schedule "step" with a factor of 0.96 every 8 epochs (Szegedy et al. 2014, section 6).
    poly: proportional to (1 - t)^`power`, where t runs from 0 to 1 (as in Caffe).
    cosine: half a cosine wave to 0.
    one-cycle: linear to 0. The warm-up starts at 1/25 of the peak and takes 30 % of the epochs by default."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Number of epochs in which the learning rate rises linearly to its peak at the start. Fractions are allowed."""
    decay: float = Field(0.96, gt=0, lt=1)
    """Factor by which the schedule "step" multiplies the learning rate. Other schedules ignore it."""
    decay_epochs: float = Field(8.0, gt=0)
    """Number of epochs between two decays of the schedule "step". Other schedules ignore it."""
    power: float = Field(0.5, gt=0)
    """Exponent of the schedule "poly". Other schedules ignore it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Whether SGD uses Nesterov momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """Factor of SGD's weight decay (L2 penalty)."""
    decay_norm_and_bias: bool = True
    """Whether weight decay also applies to biases and to the parameters of batch normalisation."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the training loss of every classifier. Validation does not use it."""
    averaging: Literal["none", "ema", "polyak"] = "none"
    """Weights that are evaluated: the last ones (none), an exponential average over the steps (ema), or the mean over
    all steps (polyak)."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    """Decay of the exponential average in each step; lower in the first steps. Other kinds of averaging ignore it."""
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Minimum and maximum area of training crops, as a share of the image's area (Szegedy et al. 2014, section 6)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio (width over height) of training crops."""
    flip: bool = True
    """Whether training images are mirrored at random, each with probability 1/2."""
    photometric: Annotated[bool, ADDED] = False
    """Whether training images are distorted in brightness, contrast, colour and lighting (Szegedy et al. 2014,
    section 6)."""
    val_crop: Fraction = 0.875
    """Side of the central validation crop, as a share of the image's shorter side. 0.875 is 224 of 256 pixels."""
    val_images: Annotated[int | None, ADDED] = Field(None, ge=1)
    """Number of validation images after every epoch but the last: the same ones each time, balanced over the classes.
    None takes as many as after the last epoch."""
    final_val_images: Annotated[int | None, ADDED] = Field(None, ge=1)
    """Number of validation images after the last epoch, chosen like `val_images`. None takes all."""
    precision: PrecisionName = "auto"
    """Arithmetic of the network: float32, bf16 (by autocast in training), or auto: bf16 on devices that have it."""

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

    @property
    def early_val_images(self) -> int | None:
        """Number of validation images after every epoch but the last. None stands for all."""
        return self.val_images or self.final_val_images


class ArmConfig(Config):
    """An arm: a named variant of an experiment. Fields that it sets replace those of the experiment; others stay."""

    network: dict[str, Any] = {}
    """Fields of the network that this arm changes, with their new values."""
    recipe: dict[str, Any] = {}
    """Fields of the recipe that this arm changes, with their new values."""
    data: dict[str, Any] = {}
    """Fields of the data set that this arm changes, with their new values."""
    resources: dict[str, Any] = {}
    """Fields of the resources that this arm changes, with their new values. Arms with other resources than those before
    them are trained after those."""
    description: str = ""
    """Description of the arm in a few words, for reports."""


class Seeds(Config):
    """The seeds of a run. Each of them has its own random generator, so that one can vary while the others stay."""

    initialisation: int = Field(ge=0)
    """Seed of the initial weights."""
    order: int = Field(ge=0)
    """Seed of the order of the training images."""
    augmentation: int = Field(ge=0)
    """Seed of the augmentation of the training images and of dropout."""

    @classmethod
    def of(cls, seed: int) -> Seeds:
        """Use one seed for initialisation, order and augmentation."""
        return cls(initialisation=seed, order=seed, augmentation=seed)


class RunConfig(Config):
    """Configures one run: everything that determines its result up to rounding, with all defaults filled in."""

    data: DataConfig
    data_hash: str
    """Hash from the manifest of the prepared data set. Two data sets with the same hash contain the same images."""
    network: NetworkConfig
    recipe: RecipeConfig
    seeds: Seeds
    workers: int = Field(ge=1)
    deterministic: Annotated[bool, ADDED] = False
    probes: Annotated[Probes, ADDED] = ALL_PROBES
    """Probes that measure the finished network."""
    train_images: Annotated[int | None, ADDED] = Field(None, ge=1)
    """Number of training images, where `data.train_fraction` times all of them is rounded wrongly (see `grid.plan`)."""

    @property
    def key(self) -> str:
        """The identity of the run: 12 hexadecimal digits of a SHA-256 over the fields of this config.

        Of the data set, only the hash and the fraction of training images that is used enter. A field marked with
        `ADDED` enters only if it differs from its default.
        """
        content = _keyed(self)
        content["data"] = {"hash": content.pop("data_hash"), "train_fraction": self.data.train_fraction}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _keyed(config: Config) -> dict[str, Any]:
    """Collect the fields of a config that enter a run's key, as nested dictionaries."""
    fields = type(config).model_fields
    return {
        name: _keyed(value) if isinstance(value, Config) else value
        for name, value in config
        if ADDED not in fields[name].metadata or value != fields[name].default
    }


class PlannedRun(Config):
    """A run of an experiment: its config and resources, and the experiment, arm and seed that it belongs to."""

    experiment: str
    arm: str
    seed: int
    config: RunConfig
    resources: ResourcesConfig = ResourcesConfig()

    @property
    def key(self) -> str:
        return self.config.key

    @property
    def name(self) -> str:
        return f"{self.arm} s{self.seed}"


class ExperimentConfig(Config):
    """The content of an experiment file: what is trained, with which data, and how often."""

    name: str = Field(pattern=EXPERIMENT_NAME, max_length=100)
    """Name of the experiment: lower-case letters, digits, dots, underscores and hyphens."""
    description: str = ""
    """One line that says what the experiment compares."""
    data: DataConfig
    """The data set that all arms share, unless an arm changes it."""
    network: dict[str, Any] = {}
    """Fields of the network that all arms share, unless an arm changes them. Other fields have their defaults."""
    recipe: RecipeConfig
    """The recipe that all arms share, unless an arm changes it."""
    resources: ResourcesConfig = ResourcesConfig()
    """The resources of each run, unless an arm changes them."""
    probes: Probes = ALL_PROBES
    """Probes that measure each finished network after its final validation.

    train_accuracy: accuracy on training images without augmentation and dropout.
    channel_clusters: whether correlated channels gather in one branch of an Inception module."""
    arms: dict[ArmName, ArmConfig] = Field(min_length=1)
    """The arms, by name: the variants that the experiment compares."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = Field(min_length=1)
    """Seeds of the runs. Each arm is trained once with each seed."""
    analysis: AnalysisConfig = AnalysisConfig()
    """How reports and claims compare the arms."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, content: Any) -> Any:
        """Drop sections that are null and may be absent: YAML reads a section of comments alone as null."""
        if not isinstance(content, Mapping):
            return content
        optional = ("network", "resources", "analysis")
        return {name: value for name, value in content.items() if value is not None or name not in optional}

    @model_validator(mode="after")
    def _coherent(self) -> ExperimentConfig:
        if self.name.endswith((".yaml", ".yml")):
            raise ValueError(f"name: {self.name!r} would be taken for a file on the command line; leave out the ending")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; give each seed once")
        self.analysis.check_arms(self.arms)
        for section in (self.network, *(arm.network for arm in self.arms.values())):
            for fixed, source in (("classes", "the data set"), ("resolution", "recipe.resolution")):
                if fixed in section:
                    raise ValueError(f"network.{fixed}: {section[fixed]} is taken from {source}; leave it out here")
        return self


def load_experiment(name_or_path: str | Path) -> ExperimentConfig:
    """Read an experiment that is part of this package, or an experiment file.

    Args:
        name_or_path: The name of a shipped experiment, or the path of a file, which ends in `.yaml` or `.yml`.

    Raises:
        SpecError: There is no such experiment, or it is not valid.
    """
    text = read_text(experiment_path(name_or_path))
    return from_yaml(ExperimentConfig, text, what="an experiment", where=str(name_or_path))
