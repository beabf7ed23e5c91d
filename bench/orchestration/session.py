"""One attempt at a run as its first rank sees it: training, with its record and telemetry around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.machine.environment import environment
from bench.machine.revision import code_diff
from bench.records.record import Record, Recording
from bench.telemetry import Sampler
from reproduce import schema
from reproduce.spec import RunConfig
from reproduce.training.checkpoint import resume_point
from reproduce.training.context import Context, Result
from reproduce.training.loop import train


def recorded_training(
    config: RunConfig,
    context: Context,
    *,
    gpus: Sequence[str] = (),
    gpus_elsewhere: int = 0,
    recording: Recording = Recording(),  # noqa: B008  (frozen)
    why_stopped: Callable[[], str | None] = lambda: None,
) -> Result:
    """`train`, recorded in `context.folder`; `gpus` are the run's devices on this host, as CUDA_VISIBLE_DEVICES names
    them, `gpus_elsewhere` how many it has on others.

    `why_stopped` is asked for the reason where the run was stopped before its end. Whatever training raises is recorded
    as the attempt's failure and raised again. Raises `RunBusyError` where another process does this run,
    `RunFinishedError` where it is done (bench.records.record).
    """
    record = Record(context.folder, progress_every_s=recording.heartbeat_s)
    attempt = record.begin(
        config,
        environment=environment(),
        world_size=context.world_size,
        device=str(context.device),
        resources={
            "cpus_per_worker": context.threads,
            "gpus_per_worker": context.gpu_share if gpus else 0,
            "compile": context.compiled,
        },
        resume=resume_point(context.folder, config.key),
        code_diff=code_diff(),
    )
    telemetry = Sampler(
        context.folder,
        attempt=attempt,
        devices=gpus,
        share=context.gpu_share,
        elsewhere=gpus_elsewhere,
        rate_hz=recording.telemetry_hz,
    ).start()
    record.gpu_absent = telemetry.gpu_absent
    try:
        result = train(config, context, record)
    except BaseException as error:
        metrics = telemetry.stop()
        record.end(
            schema.FAILED, error=f"{type(error).__name__}: {error}", metrics=metrics, telemetry=telemetry.summary()
        )
        raise
    metrics = {**result.metrics, **telemetry.stop()}
    record.end(
        schema.FINISHED if result.finished else schema.INTERRUPTED,
        reason=None if result.finished else why_stopped(),
        metrics=metrics,
        telemetry=telemetry.summary(),
    )
    return result
