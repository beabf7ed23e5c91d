"""A real MLflow store as the publisher leaves it, with a 2x2 grid of three seeds of which one run failed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from reproduce import schema

ARMS = {
    "heads-reduced": ("both", "reduced", 0.90, 1.58e9, 13_004_888),
    "heads-unreduced": ("both", "unreduced", 0.902, 3.9e9, 24_100_000),
    "plain-reduced": ("none", "reduced", 0.88, 1.58e9, 6_624_904),
    "plain-unreduced": ("none", "unreduced", 0.885, 3.9e9, 17_700_000),
}
SEEDS = (0, 1, 2)
EPOCHS = 4
STARTED = 1_700_000_000_000
FAILED_RUN = ("plain-unreduced", 2)
GPU_ABSENT = "NVML does not know device 7; it has GPU-a"
STAGES = ("stem", "3", "4", "5", "head")


def log_run(
    client: Any,
    experiment_id: str,
    arm: str,
    seed: int,
    start: int,
    *,
    outcome: str,
    gpu: dict[str, float] | None = None,
    name: str | None = None,
) -> str:
    """Log one run of an arm of `ARMS`, called `name` if that is given, and return its run id."""
    from mlflow.entities import Metric, Param, RunTag

    aux, reduction, top1, macs, parameters = ARMS[arm]
    noise = random.Random(f"{arm}{seed}")
    arm = name or arm
    run = client.create_run(experiment_id, start_time=start, run_name=f"{arm} s{seed}")
    run_id: str = run.info.run_id
    tags = {
        schema.TAG_KEY: f"{abs(hash((arm, seed))) % 16**12:012x}",
        schema.TAG_EXPERIMENT: "grid",
        schema.TAG_ARM: arm,
        schema.TAG_SEED: str(seed),
        schema.TAG_ATTEMPT: "1",
        schema.TAG_OUTCOME: outcome,
        schema.TAG_GPU: "none: no NVML library on this machine",
        schema.TAG_HOST: "testhost",
        schema.TAG_COMMIT: "0123456789abcdef0123456789abcdef01234567",
        schema.TAG_DIRTY: "true",
        schema.TAG_DATA: "fashion-mnist",
        schema.TAG_DATA_HASH: "feedc0de",
        schema.TAG_ENVIRONMENT + "torch": "2.9.0",
        schema.TAG_ENVIRONMENT + "ffcv": "1.0.2",
        schema.TAG_ENVIRONMENT + "cpu": "Test CPU, 2 cores",
        schema.TAG_ERROR: "-",
    }
    if outcome == schema.FAILED:
        tags[schema.TAG_ERROR] = "NotFiniteLoss: loss is nan in epoch 1, step 17"
    if gpu is not None:
        tags |= {schema.TAG_GPU: "FAKE GPU, 0.25 of one a run", schema.TAG_GPU_ABSENT: GPU_ABSENT if seed else "-"}
    params = {
        "network.aux": aux,
        "network.reduction": reduction,
        "network.norm": "batch",
        "recipe.epochs": str(EPOCHS),
        "recipe.batch_size": "128",
        "recipe.resolution": "64",
        "data.path": "fashion-mnist",
        "data_hash": "feedc0de",
        "seeds.initialisation": str(seed),
        "workers": "1",
    }
    metrics = []
    level = top1
    for epoch in range(EPOCHS if outcome == schema.FINISHED else 1):
        level = top1 - 0.25 * 0.45**epoch + noise.gauss(0, 0.003)
        values = {
            schema.TRAIN_LOSS: 2.5 * 0.6**epoch,
            schema.TRAIN_LOSS_MAIN: 1.4 * 0.6**epoch + noise.gauss(0, 0.02),
            schema.TRAIN_TOP1: level + 0.02,
            schema.VAL_LOSS: 0.3 + 0.5**epoch,
            schema.VAL_TOP1: level,
            schema.VAL_TOP5: level / 2 + 0.5,
            schema.IMAGES_PER_S: 700 + noise.gauss(0, 20),
            schema.EPOCH_SECONDS: 30.0,
            **{
                schema.GRADIENT_NORM + stage: 0.2 * (2 if aux == "both" else 1) * 1.6**depth * 0.9**epoch
                for depth, stage in enumerate(STAGES)
            },
        }
        metrics += [Metric(name, value, start + 30_000 * (epoch + 1), epoch) for name, value in values.items()]
    final = {schema.COST_PARAMETERS: parameters, schema.COST_PARAMETERS_INFERENCE: 6_624_904, schema.COST_MACS: macs}
    if outcome == schema.FINISHED:
        final |= {
            schema.FINAL_TOP1: level,
            schema.FINAL_TOP5: level / 2 + 0.5,
            schema.FINAL_VAL_LOSS: 0.4,
            schema.FINAL_TRAIN_TOP1: level + 0.02,
            schema.FINAL_IMAGES_PER_S: (700 if reduction == "reduced" else 310) + noise.gauss(0, 12),
            schema.FINAL_DURATION_S: 125.0,
            schema.HOST_CPU_PERCENT: 93.0,
            **(gpu or {}),
        }
    end = start + 130_000
    metrics += [Metric(name, float(value), end, 0) for name, value in final.items()]
    client.log_batch(
        run_id, metrics, [Param(*item) for item in params.items()], [RunTag(*item) for item in tags.items()]
    )
    client.set_terminated(run_id, "FINISHED" if outcome == schema.FINISHED else "FAILED", end_time=end)
    return run_id


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with six experiments.

    They are grid (11 of 12 runs finished), single (one arm, one run), broken (one failed run), shared (two runs that
    shared a GPU; a device of one was not sampled), claim-heads (the whole grid finished) and empty.
    """
    return build_store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def claims_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds claim-heads: the arms none and both of its design, with three seeds each."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("claims")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("claim-heads", artifact_location=(folder / "artifacts").as_uri())
    for seed in SEEDS:
        for arm, name in (("plain-reduced", "none"), ("heads-reduced", "both")):
            log_run(client, experiment, arm, seed, STARTED, outcome=schema.FINISHED, name=name)
    return folder


def build_store(folder: Path) -> str:
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    artifacts = (folder / "artifacts").as_uri()
    grid, single, broken, shared, claims, _ = (
        client.create_experiment(name, artifact_location=artifacts)
        for name in ("grid", "single", "broken", "shared", "claim-heads", "empty")
    )
    client.set_experiment_tag(
        grid, "mlflow.note.content", "## grid\nHeads and reductions of GoogLeNet on a small set.\n\n| arm |\n|---|"
    )
    start = STARTED
    for seed in SEEDS:
        for arm in ARMS:
            outcome = schema.FAILED if (arm, seed) == FAILED_RUN else schema.FINISHED
            log_run(client, grid, arm, seed, start, outcome=outcome)
            log_run(client, claims, arm, seed, start, outcome=schema.FINISHED)
            start += 70_000  # runs last 130 s, so two at a time
    log_run(client, single, "heads-reduced", 0, STARTED, outcome=schema.FINISHED)
    log_run(client, broken, "plain-reduced", 0, STARTED, outcome=schema.FAILED)
    for seed in (0, 1):
        gpu = {schema.SHARED_GPU_BUSY_PERCENT: 70.0}
        log_run(client, shared, "plain-reduced", seed, STARTED, outcome=schema.FINISHED, gpu=gpu)
    return uri
