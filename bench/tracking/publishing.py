"""Makes one pass of publishing: reads what is new, shapes it, sends it, and moves the cursor.

A pass may be killed and repeated at any moment, because a cursor is written only after the store has accepted the
events before it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records.plan import (
    PLAN,
    PlanEntry,
    RecordedPlan,
    experiment_folder,
    experiments,
    planned_under,
    read_plans,
)
from bench.records.reading import DamagedRecordError
from bench.records.states import read_state, run_folder
from bench.tracking import shaping
from bench.tracking.cursors import Cursor, ExperimentCursors, planner
from bench.tracking.embedded.sender import open_sender
from bench.tracking.location import artifact_location, use_write_ahead_log
from bench.tracking.pages import FORMAT
from bench.tracking.pages.arms import arm_description, planned_configs, recorded_configs, settings_of_arms
from bench.tracking.pages.colours import colours_of_arms
from bench.tracking.pages.notes import NOTE, experiment_note, run_note, with_links
from bench.tracking.pages.views import is_view_of_other_plan, shape_views
from bench.tracking.reader import RunNews, read_evaluation_news, read_experiment, read_killed_run, read_run_news
from bench.tracking.sending import RejectedError, Sender
from reproduce import schema

log = logging.getLogger("bench.tracking.publisher")


class Publisher:
    """Publishes the records of one folder to one tracking store.

    Only one publisher at a time may work on a folder of records; the caller holds the lock.

    Args:
        records: The folder of the records, as an absolute path.
        uri: The URI of the tracking store. The constructor connects to it and raises MLflow's error if it is away.
    """

    def __init__(self, records: Path, uri: str) -> None:
        self.sender = open_sender(records, uri)
        use_write_ahead_log(uri)
        self._records = records
        self._uri = uri
        self._experiments: dict[str, _ExperimentPublisher] = {}

    def publish(self, names: Sequence[str] = (), *, final: bool = False) -> bool:
        """Make one pass: publish everything that is new.

        Args:
            names: The names of the experiments to publish. Empty means all experiments in the records.
            final: Whether a run without an end event that no process holds is published as killed at once. If False,
                it must have written nothing for `reader.STALE_S` seconds.

        Returns:
            True if the store accepted everything. False if it rejected something, or if a file of the records is
            damaged: the log names that, and everything else is published.

        Raises:
            SpecError: An experiment of `names` was never planned in these records.
            Exception: MLflow's own error, if the store is away. The next call continues where this one stopped.
        """
        complete = True
        for name in names or experiments(self._records):
            if name not in self._experiments:
                self._experiments[name] = _ExperimentPublisher(self._records, self._uri, name, self.sender)
            try:
                complete = self._experiments[name].publish(final=final) and complete
            except DamagedRecordError as error:  # of its plans; the other experiments are published
                log.error("%s: not published: %s", name, error)
                complete = False
        return complete


class _ExperimentPublisher:
    def __init__(self, records: Path, uri: str, name: str, sender: Sender) -> None:
        self._records = records
        self._name = name
        self._sender = sender
        self._cursors = ExperimentCursors(records, uri, name)
        self._artifact_location = artifact_location(records, uri, name)
        self._id: str | None = None
        self._is_new = False
        """Whether the experiment was created in this pass, so that the store holds none of its runs."""
        self._plans: list[RecordedPlan] = []
        self._entries: dict[str, PlanEntry] = {}
        self._names: dict[str, dict[str, str]] = {}
        self._content: Mapping[str, Any] = {}
        self._described_at: int | None = None
        self._describing = threading.Lock()

    def publish(self, *, final: bool) -> bool:
        try:
            return self._publish(final=final)
        finally:
            self._is_new = False  # a request that failed may have made a run all the same

    def _publish(self, *, final: bool) -> bool:
        path = experiment_folder(self._records, self._name) / PLAN
        changed_at = path.stat().st_mtime_ns if path.exists() else None
        if changed_at is None or changed_at != self._described_at:
            self._read_plans()
        try:
            experiment_id = self._find_or_create()
            if changed_at != self._described_at:
                self._describe(experiment_id)
                self._described_at = changed_at
        except RejectedError as error:
            log.error("%s: rejected: %s", self._name, error)
            return False
        complete = self._publish_runs(experiment_id, final=final)
        try:
            self._publish_evaluations()
        except (RejectedError, DamagedRecordError) as error:
            log.error("%s, evaluations: %s: %s", self._name, _why(error), error)
            complete = False
        return complete

    def _publish_runs(self, experiment_id: str, *, final: bool) -> bool:
        """Publish what is new of all runs, several at once where the store takes that. Returns as `publish` does."""

        def publish(entry: PlanEntry) -> bool:
            try:
                self._publish_run(experiment_id, entry)
                self._publish_if_killed(entry, final=final)
            except (RejectedError, DamagedRecordError) as error:
                log.error("%s, %s (%s): %s: %s", self._name, entry.name, entry.key, _why(error), error)
                return False
            return True

        entries = self._entries.values()
        if self._sender.connections == 1:
            return False not in list(map(publish, entries))
        pool = ThreadPoolExecutor(self._sender.connections)
        try:
            return False not in list(pool.map(publish, entries))
        finally:
            pool.shutdown(cancel_futures=True)  # once the store is away, the others would only find the same

    def _find_or_create(self) -> str:
        if self._id is None:
            found = self._sender.find_experiment(self._name)
            if found is None:
                self._cursors.clear()  # before the experiment exists, or a kill in between would keep stale cursors
                found = self._sender.create_experiment(self._name, self._artifact_location)
                self._is_new = True
            self._cursors.write_experiment_id(found)
            self._id = found
        return self._id

    def _read_plans(self) -> None:
        self._plans = read_plans(self._records, self._name)
        self._entries = planned_under(self._plans)
        self._content = read_experiment(self._records, self._name)
        colours = colours_of_arms(list(self._entries.values()))
        self._names = {
            key: shaping.shape_names(entry, self._plans, colours[entry.arm]) for key, entry in self._entries.items()
        }

    def _describe(self, experiment_id: str) -> None:
        """Publish the plans, and the names that the present one gives to runs that the store holds already."""
        present = self._plans[0]
        known = self._sender.experiment_tags(experiment_id)
        configs = planned_configs(self._content) or recorded_configs(self._records, present.entries)
        note = with_links(
            experiment_note(self._name, self._plans, self._content, settings_of_arms(configs)),
            experiment_id,
            present.hash,
            known.get(f"{schema.TAG_REPORT}{present.hash}"),
        )
        whose = shaping.shape_present_plan(present, planner(self._records), self._records)
        tags = {name: value for plan in self._plans for name, value in shaping.shape_plan(plan).items()}
        self._sender.describe_experiment(
            experiment_id, {NOTE: note, **shaping.shape_analysis(self._content), **whose}, tags
        )
        self._show(experiment_id, present, known | whose)
        if (self._cursors.plan(), self._cursors.pages()) == (present.hash, FORMAT):
            return
        for entry in self._entries.values():
            if (cursor := self._cursors.read(entry.key)) is not None:
                state = read_state(run_folder(self._records, entry.key))
                what = arm_description(self._content, entry.arm)
                tags = {**self._names[entry.key], NOTE: run_note(self._name, entry, state, what)}
                tags |= shaping.shape_other_code(state)
                if state.attempt > 1 and cursor.status != shaping.RUNNING and state.updated is not None:
                    ended_ms, tags[schema.TAG_ENDED] = shaping.shape_resumed_end(state, state.updated)
                    self._sender.move_end(cursor.run_id, cursor.status, ended_ms)
                self._sender.name_run(cursor.run_id, entry.name, tags)
        self._cursors.write_plan(present.hash)
        self._cursors.write_pages(FORMAT)

    def _show(self, experiment_id: str, present: RecordedPlan, known: Mapping[str, str]) -> None:
        """Publish the views of the present plan, and drop those of plans that no records have any more."""
        presents = [json.loads(value)["plan"] for name, value in known.items() if name.startswith(schema.TAG_PLANNER)]
        try:
            self._sender.describe_experiment(experiment_id, shape_views(present.hash, present.since), {})
            stale = [name for name in known if is_view_of_other_plan(name, presents)]
            self._sender.drop_experiment_tags(experiment_id, stale)
        except RejectedError as error:  # the runs are there without them
            log.warning("%s: the store takes no saved views: %s", self._name, error)

    def _publish_run(self, experiment_id: str, entry: PlanEntry) -> None:
        cursor = self._cursors.read(entry.key)
        for news in read_run_news(run_folder(self._records, entry.key), cursor.offset if cursor else 0):
            if cursor is None:
                new = shaping.shape_new_run(self._name, entry, news.events[0], self._names[entry.key])
                create = self._sender.create_run if self._is_new else self._sender.find_or_create_run
                cursor = Cursor(create(experiment_id, new))
            cursor = self._send(entry, cursor, news)

    def _send(self, entry: PlanEntry, cursor: Cursor, news: RunNews) -> Cursor:
        what = arm_description(self._content, entry.arm)
        update = shaping.shape_run_news(self._name, entry, news, epoch=cursor.epoch, what=what)
        if news.config and not cursor.described:
            description = shaping.shape_description(news.config)
            with self._describing:  # MLflow rejects the second of two runs that bring the same new data set at once
                update = self._sender.describe_run(cursor.run_id, description, update, is_new=self._is_new)
            cursor = replace(cursor, described=True)
        self._sender.update_run(cursor.run_id, update, status=cursor.status)
        cursor = replace(cursor, offset=news.end, epoch=update.epoch, status=update.status or cursor.status)
        self._cursors.write(entry.key, cursor)
        return cursor

    def _publish_if_killed(self, entry: PlanEntry, *, final: bool) -> None:
        cursor = self._cursors.read(entry.key)
        if cursor is None or cursor.status != shaping.RUNNING:
            return
        killed = read_killed_run(run_folder(self._records, entry.key), final=final)
        if killed is not None:
            what = arm_description(self._content, entry.arm)
            update = shaping.shape_killed_run(self._name, entry, killed, epoch=cursor.epoch, what=what)
            self._sender.update_run(cursor.run_id, update, status=cursor.status)
            self._cursors.write(entry.key, replace(cursor, status=update.status or cursor.status))

    def _publish_evaluations(self) -> None:
        for news in read_evaluation_news(self._records, self._entries, self._cursors):
            cursors = [cursor for key in news.runs if (cursor := self._cursors.read(key)) is not None]
            if len(cursors) < len(news.runs):
                continue  # its runs have to be published first
            metrics = shaping.shape_evaluation(news)
            for cursor in cursors:
                self._sender.add_evaluation(cursor.run_id, metrics, news.path, f"evaluations/{news.name}")
            self._cursors.mark_evaluation(news.name)


def _why(error: RejectedError | DamagedRecordError) -> str:
    return "rejected" if isinstance(error, RejectedError) else "not published"
