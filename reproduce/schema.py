"""Define the names of events, metrics, tags and artifacts, for those who write them and those who read them.

This module imports no other module of this project, so that reports load no torch and training loads no MLflow.
"""

from __future__ import annotations

from typing import Final

# --- events.jsonl: kinds of line -----------------------------------------------------------------
START = "start"  # an attempt began: environment, world size, the epoch and step it resumes from
GRAPH = "graph"  # whether steps replay a CUDA graph from here on; only where one was asked for
EPOCH = "epoch"  # an epoch's metrics, written only once its checkpoint is durable
END = "end"  # an attempt ended: outcome, error, duration, final metrics

# --- outcomes ------------------------------------------------------------------------------------
FINISHED: Final = "finished"
FAILED: Final = "failed"
INTERRUPTED: Final = "interrupted"  # stopped by a signal, resumable

# --- metrics of an epoch (MLflow metric names; the prefix is the dashboard's section) -------------
TRAIN_LOSS = "train/loss"  # total, with the weighted auxiliary losses
TRAIN_LOSS_MAIN = "train/loss_main"
TRAIN_LOSS_AUX1 = "train/loss_aux1"
TRAIN_LOSS_AUX2 = "train/loss_aux2"
TRAIN_TOP1 = "train/top1"  # of the augmented training images, main classifier, 0 to 1
TRAIN_TOP5 = "train/top5"
VAL_LOSS = "val/loss"
VAL_TOP1 = "val/top1"  # every validation image counted once, 0 to 1
VAL_TOP5 = "val/top5"
LEARNING_RATE = "train/learning_rate"
RESOLUTION = "train/resolution"
GRADIENT_NORM = "gradient/"  # + stage name: L2 norm of the stage's gradient, mean over sampled steps

IMAGES_PER_S = "throughput/images_per_s"  # training images over the epoch's training seconds, all ranks
COMPUTE_IMAGES_PER_S = "throughput/compute_images_per_s"  # the same without the time spent waiting for data
DATA_WAIT_SHARE = "throughput/data_wait_share"  # 0 to 1, of rank 0's training seconds
RANK = "throughput/rank/"  # + rank + / + one of the next two, where there are several ranks; not sent to MLflow
RANK_FORWARD_MS: Final = "forward_ms"  # of one of its images
RANK_DATA_WAIT_MS: Final = "data_wait_ms"  # the same
EPOCH_SECONDS = "throughput/epoch_s"  # training and validation
TRAIN_SECONDS = "throughput/train_s"
WARM_UP_SECONDS = "throughput/warm_up_s"  # not part of train_s: first batches, choice of kernels
VAL_SECONDS = "throughput/val_s"
PEAK_MEMORY_GIB = "memory/peak_gib"  # CUDA allocator's peak, or peak resident memory of a CPU rank

# --- final metrics of a run ----------------------------------------------------------------------
FINAL_TOP1 = "final/val_top1"
FINAL_TOP5 = "final/val_top5"
FINAL_TRAIN_TOP1 = "final/train_top1"
# Of training images that were used, cropped as in validation, at most as many as there are validation images. Minus
# final/val_top1, it is the overfitting gap without augmentation and dropout.
FINAL_TRAIN_TOP1_PLAIN = "final/train_top1_plain"
FINAL_VAL_LOSS = "final/val_loss"
FINAL_IMAGES_PER_S = "final/images_per_s"  # median over epochs, without the first if there are others
FINAL_DURATION_S = "final/duration_s"  # all attempts together
FINAL_WARM_UP_S = "final/warm_up_s"  # sum over epochs
# Mean absolute correlation of pairs of channels in an Inception module on validation images, mean over modules.
CLUSTER_WITHIN = "cluster/within"  # pairs within one branch
CLUSTER_ACROSS = "cluster/across"  # pairs across two branches
CLUSTER_DIFFERENCE = "cluster/difference"
CLUSTER_PERMUTED_95 = "cluster/permuted_95"  # upper end of the 95 % band of the difference for random branches
CLUSTER_UNTRAINED = "cluster/difference_untrained"  # of the same network before its first step
COST_PARAMETERS = "cost/parameters"  # in training, with auxiliary classifiers
COST_PARAMETERS_INFERENCE = "cost/parameters_inference"
COST_MACS = "cost/macs_inference"  # multiply-adds of one image in evaluation
COST_MACS_TRAINING = "cost/macs_training"  # multiply-adds of one image's forward pass in training

# --- metrics of `deeper evaluate` -----------------------------------------------------------------
EVALUATION = "evaluation/"  # + protocol + /top1 or /top5, 0 to 1

# --- telemetry aggregates (absent, never zero, where there is no such device) ----------------------
HOST_CPU_PERCENT = "system/cpu_percent"  # of the whole machine, mean
HOST_MEMORY_GIB = "system/memory_gib"  # used on the host, maximum
GPU_BUSY_PERCENT = "system/gpu_busy_percent"  # NVML utilization.gpu: share of time any kernel ran, mean
GPU_MEMORY_GIB = "system/gpu_memory_gib"  # maximum
GPU_POWER_W = "system/gpu_power_w"  # mean
GPU_ENERGY_J = "system/gpu_energy_j"  # difference of the energy counter, all devices
GPU_SM_CLOCK_MHZ = "system/gpu_sm_clock_mhz"  # mean
GPU_TEMPERATURE_C = "system/gpu_temperature_c"  # maximum
GPU_PROCESSES = "system/gpu_processes"  # that computed on each of the run's devices, mean; above 1, others did as well
NO_GPU_USED: Final = "the run uses no GPU"  # why a run on CPUs has no GPU telemetry


def shared(metric: str) -> str:
    """Return the name under which a GPU metric is recorded if several runs share the device.

    The value then describes the device, not the run. "system/gpu_power_w" becomes "system/shared_gpu_power_w"; names of
    other metrics stay the same.
    """
    return metric.replace("/gpu_", "/shared_gpu_")


SHARED_GPU_BUSY_PERCENT = shared(GPU_BUSY_PERCENT)

# --- MLflow tags ----------------------------------------------------------------------------------
TAG_KEY = "deeper.key"  # the run's key; runs with the same key are the same run
TAG_EXPERIMENT = "deeper.experiment"
TAG_ARM = "deeper.arm"
TAG_SEED = "deeper.seed"
TAG_ATTEMPT = "deeper.attempt"
TAG_OUTCOME = "deeper.outcome"
TAG_ERROR = "deeper.error"
TAG_ENDED = "deeper.ended"  # of a run that was resumed: when it ended, seconds since 1970
TAG_GPU = "deeper.gpu"  # device names, or why there are none
TAG_GPU_ABSENT = "deeper.gpu_absent"  # which of the run's GPUs were not sampled, and why; "-" if all were
TAG_SLOWEST = "deeper.slowest"  # the slowest rank and its host, if it is far slower than the others
TAG_HOST = "deeper.host"
TAG_COMMIT = "mlflow.source.git.commit"  # fills the dashboard's Version column
TAG_DIRTY = "deeper.dirty"
TAG_DATA = "deeper.data"  # name of the data set
TAG_DATA_HASH = "deeper.data_hash"
TAG_ENVIRONMENT = "deeper.environment."  # + package name: its version
TAG_PLAN = "deeper.plan."  # + hash: "yes" for a run that the plan asks for
TAG_COMPUTATION = "deeper.computation."  # + fact: what may change numbers but not the key; "-" if it does not apply
TAG_CHANGES = "deeper.changes."  # + fact: what it was before and after a resume; kept for all later attempts

# --- MLflow tags of an experiment -----------------------------------------------------------------
# TAG_PLAN + hash is {"since", "by", "pieces"} as JSON; with ".0", ".1", ... a piece of {arm: {seed: key}} as JSON.
TAG_PLANNER = "deeper.planner."  # + a folder of records: {"plan", "since", "by", "records"}, its present plan

TAG_REPORT = "deeper.report."  # + a plan's hash: MLflow's id of the run that carries its report, which has the same tag
TAG_ANALYSIS = "deeper.analysis"  # the experiment's section `analysis` as JSON

# --- MLflow artifacts of a run ----------------------------------------------------------------------
ARTIFACT_CONFIG = "config.yaml"
ARTIFACT_ENVIRONMENT = "environment.json"
ARTIFACT_EVENTS = "events.jsonl"
ARTIFACT_TELEMETRY = "telemetry.parquet"
ARTIFACT_PREDICTIONS = "predictions.parquet"
CLASS_NAMES = "deeper.class_names"  # entry of its metadata: names of the classes in the order of labels, a JSON list

# --- settings that came after results were committed ------------------------------------------------
# By their names in MLflow: their defaults, which are what runs did that did not record them.
ADDED_SETTINGS: Final = {
    "network.aux_input_dropout": 0.0,
    "network.branches": "mixed",
    "recipe.photometric": False,
    "recipe.val_images": None,
    "recipe.final_val_images": None,
    "deterministic": False,
    "probes": ["train_accuracy", "channel_clusters"],
}
