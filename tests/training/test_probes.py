"""The probes that an experiment asks for are those that a run takes."""

from __future__ import annotations

from pathlib import Path

from tiny import Recorder, rank_setup, tiny_run

from reproduce import schema
from reproduce.spec import ALL_PROBES
from reproduce.training.loop import train
from reproduce.training.probes.registry import PROBES

CLUSTERS = {
    schema.CLUSTER_WITHIN,
    schema.CLUSTER_ACROSS,
    schema.CLUSTER_DIFFERENCE,
    schema.CLUSTER_PERMUTED_95,
    schema.CLUSTER_UNTRAINED,
}


def test_every_probe_of_a_config_is_implemented() -> None:
    assert tuple(PROBES) == ALL_PROBES


def test_a_run_takes_the_probes_that_it_names(tmp_path: Path, data_root: Path) -> None:
    run = tiny_run(epochs=1)
    metrics = {
        probes: set(
            train(config, rank_setup(tmp_path / config.key, data_root), Recorder(tmp_path / config.key)).metrics
        )
        for probes in (ALL_PROBES, ("train_accuracy",), ())
        for config in [run.model_copy(update={"probes": probes})]
    }
    assert metrics[ALL_PROBES] - metrics[()] == {schema.FINAL_TRAIN_TOP1_PLAIN} | CLUSTERS
    assert metrics[("train_accuracy",)] - metrics[()] == {schema.FINAL_TRAIN_TOP1_PLAIN}
    assert schema.FINAL_TOP1 in metrics[()]
