"""Lists all kinds of faults, with what is promised for each."""

from __future__ import annotations

import signal
from functools import partial

from bench.console.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_INPUT
from bench.suites.faults import files, processes, tracking
from bench.suites.faults.job import STEPS
from bench.suites.faults.kind import FaultKind

KILLED = -signal.SIGKILL
RESUMED = "The command ends at once; started again, it goes on from the last checkpoint."
RETRIED = "The command notices it, and tries the run again from the last checkpoint by itself."
STOPPED = "The run writes a checkpoint, and the command ends with code 75."
UNPUBLISHED = "The run is trained to its end; the next command publishes what is missing."
CAUGHT_UP = "The run is trained to its end; what is missing is published as soon as the store answers again."

KINDS: tuple[FaultKind, ...] = (
    FaultKind(
        name="driver-killed",
        promise=RESUMED,
        inject=partial(processes.signal_driver, signal.SIGKILL),
        codes=(KILLED,),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="driver-terminated",
        promise=STOPPED,
        inject=partial(processes.signal_driver, signal.SIGTERM),
        codes=(INTERRUPTED, DONE),
        wasted_steps=1,
    ),
    FaultKind(
        name="group-terminated",
        promise=STOPPED,
        inject=partial(processes.signal_group, signal.SIGTERM),
        codes=(INTERRUPTED, DONE),
        wasted_steps=1,
    ),
    FaultKind(
        name="group-interrupted",
        promise=STOPPED,
        inject=partial(processes.signal_group, signal.SIGINT),
        codes=(INTERRUPTED, DONE),
        wasted_steps=1,
    ),
    FaultKind(
        name="suspended",
        promise="A machine that sleeps for five seconds goes on as if nothing had happened.",
        inject=processes.suspend,
        wasted_steps=0,
    ),
    FaultKind(
        name="rank-killed",
        promise=RETRIED,
        inject=partial(processes.signal_rank, signal.SIGKILL),
        span="steps",
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="rank-hanging",
        promise="The command notices that no step is done, writes the stacks of all ranks to a log, and tries again.",
        inject=partial(processes.signal_rank, signal.SIGSTOP),
        span="steps",
        setup=processes.short_patience,
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="out-of-memory",
        promise=RETRIED,
        inject=processes.exhaust_memory,
        span="steps",
        setup=processes.small_memory_group,
        missing=processes.no_memory_groups,
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="raylet-killed",
        promise="The command says that Ray's node is lost and ends within a minute; started again, it goes on.",
        inject=partial(processes.signal_named, signal.SIGKILL, "raylet/raylet"),
        codes=(DONE, FAILED, WRONG_INPUT, INTERRUPTED),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="gcs-killed",
        promise="The command says that Ray is lost and ends within two minutes; started again, it goes on.",
        inject=partial(processes.signal_named, signal.SIGKILL, "gcs/gcs_server"),
        codes=(DONE, FAILED, WRONG_INPUT, INTERRUPTED),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="publisher-killed",
        promise="The publisher is started again; everything is published.",
        inject=partial(processes.signal_named, signal.SIGKILL, processes.PUBLISHER),
        wasted_steps=0,
    ),
    FaultKind(
        name="publisher-hanging",
        promise=UNPUBLISHED,
        inject=partial(processes.signal_named, signal.SIGSTOP, processes.PUBLISHER),
        heal=processes.end_command,
        wasted_steps=0,
    ),
    *(
        FaultKind(
            name=f"checkpoint-{done}",
            promise="The damage is noticed, and the run goes on from the checkpoint before.",
            inject=partial(files.kill_and_damage_checkpoint, how=how),
            span="checkpoints",
            codes=(KILLED,),
            wasted_steps=2 * STEPS,
        )
        for how, done in (("flip", "flipped"), ("zero", "zeroed"), ("truncate", "truncated"))
    ),
    FaultKind(
        name="events-torn",
        promise="Half a line at the end of the events is closed; the run goes on.",
        inject=files.kill_and_tear_events,
        span="steps",
        codes=(KILLED,),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="progress-damaged",
        promise="The heartbeat is written anew; the run goes on.",
        inject=partial(files.kill_and_overwrite, pattern="runs/KEY/progress.json"),
        span="checkpoints",
        codes=(KILLED,),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="cursors-damaged",
        promise="The publisher finds out what the store holds; nothing is published twice.",
        inject=partial(files.kill_and_overwrite, pattern="publisher/*/*/KEY.json"),
        span="checkpoints",
        codes=(KILLED,),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="data-damaged",
        promise="The command refuses the data with the name of the file; with the file restored, the run goes on.",
        inject=files.kill_and_damage_data,
        span="steps",
        setup=files.own_data,
        heal=files.refuse_damaged_data,
        codes=(KILLED,),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="disk-full",
        promise="The command names the disk and ends; with room again, it goes on.",
        inject=files.fill_disk,
        setup=files.small_disk,
        heal=files.free_disk,
        missing=files.no_mounts,
        codes=(DONE, FAILED, INTERRUPTED),
        wasted_steps=STEPS,
    ),
    FaultKind(
        name="clock-set-back",
        promise="A clock that is set back by an hour changes no result.",
        inject=files.set_clock_back,
        setup=files.adjustable_clock,
        missing=files.no_compiler,
        wasted_steps=0,
    ),
    *(
        FaultKind(
            name=f"server-{name}",
            promise=CAUGHT_UP,
            inject=partial(tracking.disturb_server, mode=mode),
            setup=tracking.server,
            heal=tracking.heal_server,
            wasted_steps=0,
        )
        for mode, name in (("down", "down"), ("slow", "slow"), ("hang", "hanging"), ("fail", "failing"))
    ),
    FaultKind(
        name="store-locked",
        promise="The publisher waits for the lock; everything is published.",
        inject=tracking.lock_store,
        heal=tracking.await_lock,
        wasted_steps=0,
    ),
    FaultKind(
        name="store-read-only",
        promise=CAUGHT_UP,
        inject=tracking.make_store_read_only,
        setup=tracking.writable_again,
        heal=tracking.make_store_writable,
        missing=tracking.no_immutable_files,
        wasted_steps=0,
    ),
)
"""All kinds of faults in the order in which they are tried."""
