"""Experiments as data: frozen, validated configs and run keys.

An experiment file names a data set, a network, a recipe, arms (named changes of any of them) and seeds. A run's key is
a hash of everything that determines its result.

Every mistake raises `SpecError`, one line a mistake: field, value, what would be valid.
Imports neither torch nor FFCV, so that planning is quick.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reproduce.errors import UserError

Reduction = Literal["reduced", "unreduced", "naive"]
Branches = Literal["mixed", "1x1", "3x3", "5x5"]
Auxiliary = Literal["none", "aux1", "aux2", "both"]
Schedule = Literal["constant", "step", "paper", "poly", "cosine", "one-cycle"]
Fraction = Annotated[float, Field(gt=0, le=1)]

SMALLEST_INPUT = 32  # the network halves its input five times


class SpecError(UserError):
    """A user's mistake in an experiment, told in one line a mistake."""


ADDED = "added after results were committed"
"""Marks a field (`Annotated`) that a run's key leaves out while it has its default, so that keys of older runs stay."""


class Config(BaseModel):
    """Base of every config: frozen, no unknown keys, defaults validated like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


class NetworkConfig(Config):
    """One member of the GoogLeNet family (P = arXiv:1409.4842)."""

    reduction: Reduction = "reduced"
    """reduced: P Fig. 2b. unreduced: 3x3 and 5x5 straight on the input, pool projection kept, widths agree
    with reduced. naive: P Fig. 2a, pooled input concatenated as it is, widths grow."""
    aux: Auxiliary = "both"
    """Auxiliary classifiers: aux1 after 4a, aux2 after 4d (P section 5)."""
    aux_weight: float = Field(0.3, gt=0)
    aux_dropout: float = Field(0.7, ge=0, lt=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    norm: Literal["none", "batch"] = "batch"
    head: Literal["avgpool", "fc"] = "avgpool"
    """avgpool: global average pooling, dropout, linear. fc: the 7x7x1024 maps flattened, linear to 1024, ReLU,
    dropout, linear (what P section 5 says average pooling replaced)."""
    large_kernel: Literal["5x5", "3x3"] = "5x5"
    """Kernel of the third branch; 3x3 is what TF-slim and torchvision ship (pytorch/vision #906)."""
    pooling: Literal["paper", "port"] = "paper"
    """paper: 3x3 pool before 5a, heads average 5x5 with stride 3. port: as torchvision, 2x2 pool before 5a, heads
    average adaptively to 4x4."""
    branches: Annotated[Branches, ADDED] = "mixed"
    """mixed: the module's three kernels side by side. Else one of them alone: a 1x1 reduction, then that kernel to as
    many channels as the three have, at their multiply-adds; the pool branch stays."""
    classes: int = Field(1000, ge=2)
    resolution: int = Field(224, ge=SMALLEST_INPUT)
    """Nominal input side in pixels; the heads' linear layers are sized for it."""

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
    """A prepared data set: a folder with train.beton, val.beton and manifest.json."""

    path: str
    """Folder, relative to the data root (`--data`, $DEEPER_DATA or ./data)."""
    source: Literal["folder", "imagenette", "fashion-mnist", "synthetic"] | None = None
    """What `deeper run --prepare` may prepare it from; None: prepared by hand."""
    train_fraction: Fraction = 1.0
    """Share of the training images used: the first of a fixed shuffle, equal over classes as far as it goes."""


class RecipeConfig(Config):
    """How a network is trained."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Images of one optimiser step, over all workers."""
    resolution: int = Field(224, ge=SMALLEST_INPUT)
    resolution_start: int | None = Field(None, ge=SMALLEST_INPUT)
    """Progressive resizing: from this side up to `resolution`, linearly over the first 3/4 of the epochs,
    in steps of 16 pixels."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    """step: times `decay` every `decay_epochs`. paper: step with 0.96 and 8. poly: (1 - t)^power (Caffe)."""
    warmup_epochs: float = Field(0.0, ge=0)
    decay: float = Field(0.96, gt=0, lt=1)
    decay_epochs: float = Field(8.0, gt=0)
    power: float = Field(0.5, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    decay_norm_and_bias: bool = True
    """False: no weight decay on normalisation parameters and biases."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    averaging: Literal["none", "ema", "polyak"] = "none"
    """Weights that are evaluated: the last ones, an exponential average, or the mean over all steps (Polyak)."""
    ema_decay: float = Field(0.999, gt=0, lt=1)
    crop_scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Range of the area of training crops, as a share of the image (P section 6)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    photometric: Annotated[bool, ADDED] = False
    """Distort brightness, contrast, colour and lighting of training images (P section 6)."""
    val_crop: Fraction = 0.875
    """Side of the central validation crop, as a share of the image's shorter side (224 / 256)."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 autocast where the device has bf16 arithmetic, else float32."""

    @model_validator(mode="after")
    def _coherent(self) -> RecipeConfig:
        if self.resolution_start is not None and self.resolution_start > self.resolution:
            raise ValueError(
                f"resolution_start: {self.resolution_start} is above resolution {self.resolution}; "
                "progressive resizing goes upwards"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} leaves nothing of {self.epochs} epochs; use fewer")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}: [{low}, {high}] is no range; give [low, high] with 0 < low <= high")
        return self


class ResourcesConfig(Config):
    """What one run gets and is run with; a run's key knows of `workers` and `deterministic` alone."""

    workers: int = Field(1, ge=1)
    """World size: DDP ranks of a run."""
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """1 is a whole GPU, 0 none. A fraction is the share of a GPU that several runs of one worker use at once, each with
    that share of its memory as a limit: 0.25 places four runs on each GPU."""
    deterministic: bool = False
    """On GPUs, take kernels that give the same bits each time, chosen without timing: two runs of one key are equal bit
    for bit, and so is one that was resumed. On CPUs every run is."""
    compile: bool = False
    """Train with the network's parts compiled by torch.compile: the same run up to rounding, and so of the same key."""
    retries: int = Field(2, ge=0)
    """Times a run is tried again from its last checkpoint after it failed for a reason other than its own loss."""

    def workers_within(self, cpus: int, gpus: int) -> int:
        """How many workers a node of so many CPU cores and GPUs holds; a share of a GPU lies within one GPU."""
        room = cpus // self.cpus_per_worker
        if self.gpus_per_worker == 0:
            return room
        return min(room, gpus * int(1 / self.gpus_per_worker + 1e-9))

    @model_validator(mode="after")
    def _coherent(self) -> ResourcesConfig:
        if 0 < self.gpus_per_worker < 1 and self.workers > 1:
            raise ValueError(
                f"gpus_per_worker: {self.gpus_per_worker:g} with {self.workers} workers: NCCL takes one worker a GPU; "
                "give each a whole GPU (1), or use workers: 1"
            )
        return self


class ArmConfig(Config):
    """A named change: fields given here replace those of the experiment."""

    network: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    data: dict[str, Any] = {}
    description: str = ""


class Seeds(Config):
    """Initialisation, order and augmentation have generators of their own, so each can be varied alone."""

    initialisation: int = Field(ge=0)
    order: int = Field(ge=0)
    augmentation: int = Field(ge=0)

    @classmethod
    def of(cls, seed: int) -> Seeds:
        return cls(initialisation=seed, order=seed, augmentation=seed)


class RunConfig(Config):
    """Everything that determines a run's result, resolved: no defaults left open."""

    data: DataConfig
    data_hash: str
    """Hash of the prepared files' manifest; two data sets with the same hash hold the same images."""
    network: NetworkConfig
    recipe: RecipeConfig
    seeds: Seeds
    workers: int = Field(ge=1)
    deterministic: Annotated[bool, ADDED] = False

    @property
    def key(self) -> str:
        """12 hexadecimal digits; where the data lie and how they were prepared does not count, what they hold does."""
        content = _keyed(self)
        content["data"] = {"hash": content.pop("data_hash"), "train_fraction": self.data.train_fraction}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _keyed(config: Config) -> dict[str, Any]:
    """The content of a config that counts in a key."""
    fields = type(config).model_fields
    return {
        name: _keyed(value) if isinstance(value, Config) else value
        for name, value in config
        if ADDED not in fields[name].metadata or value != fields[name].default
    }


class PlannedRun(Config):
    """A run with the names that people know it by."""

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
    """An experiment file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: str = ""
    data: DataConfig
    network: dict[str, Any] = {}
    recipe: RecipeConfig
    resources: ResourcesConfig = ResourcesConfig()
    arms: dict[str, ArmConfig] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _coherent(self) -> ExperimentConfig:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} names a seed twice; give each once")
        for section in (self.network, *(arm.network for arm in self.arms.values())):
            for fixed, source in (("classes", "the data set"), ("resolution", "recipe.resolution")):
                if fixed in section:
                    raise ValueError(f"network.{fixed}: {section[fixed]} is taken from {source}; leave it out here")
        return self


# --- reading ---------------------------------------------------------------------------------------


def shipped_experiments() -> list[str]:
    """Names of the experiments that come with the suite."""
    folder = resources.files("reproduce") / "experiments"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_experiment(name_or_path: str | Path) -> ExperimentConfig:
    """Read an experiment: a file, or the name of a shipped one. Raises `SpecError`."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpecError(f"experiment: no file {path}")
        text = path.read_text(encoding="utf-8")
    else:
        names = shipped_experiments()
        if str(name_or_path) not in names:
            hint = _did_you_mean(str(name_or_path), names)
            raise SpecError(f"experiment: {name_or_path!r} is no file (*.yaml) and none of {', '.join(names)}{hint}")
        text = (resources.files("reproduce") / "experiments" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    return from_yaml(ExperimentConfig, text, what="an experiment", where=str(name_or_path))


def from_yaml(model: type[C], text: str, *, what: str, where: str) -> C:
    """The config that a YAML text writes; a `SpecError` calls it `what` and says `where` it lies."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise SpecError(f"{where}: {what} is a mapping with {', '.join(model.model_fields)}")
    return validated(model, content, where=f"{where}: ")


def validated(model: type[C], content: Mapping[str, Any], where: str) -> C:
    """`content` as a config; every mistake of it in one `SpecError`, each field prefixed with `where`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_sentence(model, mistake) for mistake in error.errors()]
        raise SpecError("\n".join(f"{where}{line}" for line in lines)) from error


def _sentence(model: type[Config], mistake: Any) -> str:
    """One validation error as field, value and what would be valid."""
    location = [str(part) for part in mistake["loc"]]
    field = ".".join(location) or "experiment"
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = _did_you_mean(location[-1], known)
        return f"{field}: unknown key; known here: {', '.join(known)}{hint}"
    if mistake["type"] == "missing":
        return f"{field}: missing; it has no default"
    if mistake["type"] == "value_error":
        own = str(mistake["ctx"]["error"])
        return f"{field}.{own}" if location else own
    return f"{field}: {mistake['input']!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _known_keys(model: type[Config], location: list[str]) -> list[str]:
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else ArmConfig
        current = annotation if isinstance(annotation, type) else ArmConfig
    return sorted(getattr(current, "model_fields", {}))
