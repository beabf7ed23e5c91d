"""Defines the resources of a run: its workers, and the cores and GPUs of each."""

from __future__ import annotations

from pydantic import Field, model_validator

from reproduce.config import Config


class ResourcesConfig(Config):
    """The resources of each run. Of these fields, only `workers` and `deterministic` are part of a run's key."""

    workers: int = Field(1, ge=1, le=100_000)
    """Number of worker processes that train one run together (ranks of PyTorch's DistributedDataParallel)."""
    cpus_per_worker: int = Field(1, ge=1, le=100_000)
    """CPU cores of each worker. On a CPU, results for other numbers of cores are equal up to rounding."""
    gpus_per_worker: float = Field(0, ge=0, le=1)
    """GPUs of each worker: 1 for a whole GPU, 0 for none. With a fraction, several runs share a GPU and each may use
    that share of its memory: 0.25 places four runs on each GPU. Such runs must have a single worker."""
    deterministic: bool = False
    """Whether GPUs use kernels that give the same bits each time, chosen without timing. Two runs with the same key are
    then equal bit for bit, even if one was resumed, on one kind of machine with the same code, packages and resources.
    On CPUs every run is deterministic in this sense."""
    compile: bool = False
    """Whether torch.compile compiles the parts of the network for training. Results change by rounding only, so this
    field is not part of a run's key."""
    retries: int = Field(2, ge=0, le=1000)
    """Number of times that a failed run is tried again from its last checkpoint. A run is not tried again if its loss
    became infinite or NaN, or if it failed because of a user's mistake."""

    def workers_within(self, cpus: int, gpus: int) -> int:
        """Compute how many workers fit on a node with these CPU cores and GPUs. No worker is split over two GPUs."""
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
