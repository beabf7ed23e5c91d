"""One attempt at a run as its first rank sees it: training, with its record and telemetry around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.environment import environment
from bench.records import Record, Recording
from bench.telemetry import Sampler
from reproduce import schema
from reproduce.spec import RunConfig
from reproduce.training import Context, Result, resume_point, train


def recorded_training(
    config: RunConfig,
    context: Context,
    *,
    gpus: Sequence[str] = (),
    recording: Recording = Recording(),  # noqa: B008  (frozen)
    why_stopped: Callable[[], str | None] = lambda: None,
) -> Result:
    """`train`, recorded in `context.folder`; `gpus` are all devices of the run, as CUDA_VISIBLE_DEVICES names them.

    `why_stopped` is asked for the reason where the run was stopped before its end. Whatever training raises is recorded
    as the attempt's failure and raised again. Raises `RunBusy` where another process does this run, `RunFinished` where
    it is done (bench.records).
    """
    record = Record(context.folder, progress_every_s=recording.heartbeat_s)
    attempt = record.begin(
        config,
        environment=environment(),
        world_size=context.world_size,
        device=str(context.device),
        resume=resume_point(context.folder, config.key),
    )
    telemetry = Sampler(context.folder, attempt=attempt, devices=gpus, rate_hz=recording.telemetry_hz).start()
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
