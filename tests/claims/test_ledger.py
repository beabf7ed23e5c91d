"""The shipped ledger holds every claim that the suite promises to test, and mistakes in a ledger are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.commands.claims import measurements
from reproduce.claims.design import Design
from reproduce.claims.ledger import Claim, Kind, Ledger, load_ledger
from reproduce.spec import SpecError, load_experiment

ROOT = Path(__file__).parents[2]
KNOWN: dict[Kind, list[str]] = {"static": ["count"], "empirical": ["compare"]}

DESIGN = {"arms": ["a"], "looks": [3], "resolution": 64, "epochs": [6], "written": "2026-11-27T00:00:00+00:00"}

PROMISED = {
    "S-reduce-example": "weights of a 5x5 convolution, straight and behind a 1x1",
    "S-params-vgg": "1/20 of the parameters of VGG-16",
    "S-params-alexnet": "1/12 of the parameters of AlexNet",
    "S-params-aux": "what the two heads add in parameters",
    "S-shapes": "every map of a 224x224 image",
    "S-aux-shapes": "every map of the two heads",
    "S-branches": "branches agree in height and width",
    "S-aux-inference": "heads cost nothing at evaluation",
    "S-no-fc": "average pooling removes most parameters",
    "S-dropout": "the sources' conflict about the heads' dropout",
    "S-heads-alike": "both heads have the same structure",
    "P-sparse": "sparse computation on dense hardware",
    "P-faster": "2 to 3 times faster than other networks",
    "P-dropout": "dropout remains essential",
    "P-ilsvrc": "the result of ILSVRC 2014",
    "P-table1": "parameters and operations by layer",
    "P-ops": "1.5 billion multiply-adds",
    "P-depth": "22, 27 and about 100 layers",
    "T-port": "how the torchvision port differs",
    "S-aux-helps": "heads help training",
    "P-aux-half-percent": "heads bring 0.5 %, one of them suffices",
    "S-vanishing": "heads push gradient into the lower layers",
    "S-reduce-cheap": "reductions make depth and width affordable",
    "P-reduce": "reductions cost little accuracy",
    "S-overfit": "many parameters on limited data overfit",
    "S-multiscale": "several kernel sizes judge better than one",
    "S-clustered": "related features gather in one branch",
    "P-avgpool": "average pooling brings 0.6 points",
    "P-multicrop": "errors by crops and models",
    "C-caffe": "accuracy of the Caffe model",
    "T-weights": "accuracy of the torchvision weights",
    "P-recipe": "the paper's recipe trains the network",
}


def row(**changes: Any) -> dict[str, Any]:
    static = {
        "id": "S-one",
        "kind": "static",
        "statement": "there is one",
        "source": {"document": "S", "section": "1"},
        "claimed": "1",
        "rule": "exact",
        "protocol": "count",
        "measurement": "count",
        "parts": [{"of": "number", "expected": 1}],
    }
    return {name: value for name, value in {**static, **changes}.items() if value is not None}


def load(folder: Path, *rows: Any, **top: Any) -> Ledger:
    path = folder / "ledger.yaml"
    path.write_text(yaml.safe_dump({"documents": {"S": "notes"}, "claims": list(rows), **top}), encoding="utf-8")
    ledger = load_ledger(path)
    ledger.check_measurements(KNOWN)
    return ledger


def test_every_promised_claim_has_a_row() -> None:
    assert PROMISED.keys() - {claim.id for claim in load_ledger().claims} == set()


WITH_DESIGN = [claim for claim in load_ledger().claims if claim.design is not None]


def test_every_row_that_runs_on_cpus_decide_has_a_design_that_fits_its_experiment() -> None:
    assert {claim.id for claim in WITH_DESIGN} == {
        claim.id for claim in load_ledger().claims if (claim.experiment or "").startswith("claim-")
    }
    for claim in WITH_DESIGN:
        design, experiment = claim.design, load_experiment(str(claim.experiment))
        assert design is not None
        assert {*design.arms, *design.awaits} <= experiment.arms.keys(), claim.id
        configs = [experiment.recipe.model_dump() | experiment.arms[arm].recipe for arm in design.arms]
        assert {config["resolution"] for config in configs} == {design.resolution}, claim.id
        assert {config["epochs"] for config in configs} == set(design.epochs), claim.id
        estimated = len({part.one_of or part.of for part in claim.parts if part.of != "convergence"})
        assert (design.correction == "holm") == (estimated > 1), claim.id


@pytest.mark.parametrize("claim", WITH_DESIGN, ids=lambda claim: claim.id)
def test_a_design_is_the_one_of_its_commit_unless_it_names_a_change(claim: Claim) -> None:
    assert claim.design is not None
    last = claim.design.changes[-1] if claim.design.changes else claim.design
    command = ["git", "-C", str(ROOT), "show", f"{last.commit}:reproduce/claims/ledger.yaml"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"commit {last.commit} is not in this clone")
    rows = {row["id"]: row for row in yaml.safe_load(found.stdout)["claims"]}
    if "design" not in rows.get(claim.id, {}):  # the design stood in a page of its own before it was in the ledger
        assert "design.md" in claim.design.note
        return
    then = {name: value for name, value in rows[claim.id]["design"].items() if name not in ("commit", "changes")}
    now = claim.design.model_dump(mode="json", include=set(then))
    assert Design.model_validate(rows[claim.id]["design"]).model_dump(mode="json", include=set(then)) == now


def test_rows_name_known_measurements_and_every_measurement_decides_a_row() -> None:
    ledger = load_ledger()
    ledger.check_measurements(measurements())
    assert {claim.measurement for claim in ledger.claims if claim.measurement} == {
        name for names in measurements().values() for name in names
    }


@pytest.mark.parametrize("module", ["reproduce.claims.ledger", "reproduce.claims.verdicts", "analysis.claims.decide"])
def test_ledger_and_verdicts_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_row_is_read_as_typed_data(tmp_path: Path) -> None:
    shape = {"of": "map", "expected": [7, 7, 1024]}
    claim = load(tmp_path, row(parts=[{"of": "number", "name": "how many", "expected": 20, "within": 0.5}, shape]))
    number, size = claim.claims[0].parts
    assert (number.label, number.expected, number.within) == ("how many", 20, 0.5)
    assert (size.label, size.expected) == ("map", (7, 7, 1024))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measurement": "cuont"}, "S-one: measurement: 'cuont' is unknown; known for static claims: count"),
        ({"measurement": "compare"}, "S-one: measurement: 'compare' is unknown; known for static claims: count"),
        ({"measurement": None}, "S-one: measurement: missing; a static claim names the function that decides it"),
        ({"statment": "?"}, r"S-one: statment: unknown key; known here: .*; did you mean statement\?"),
        ({"source": {"document": "Q"}}, "S-one: source.document: 'Q' is unknown; known: S"),
        ({"kind": "both"}, "S-one: kind: 'both': use 'static' or 'empirical'"),
        ({"kind": "empirical", "measurement": None}, "S-one: needs: missing; an empirical claim says what"),
        ({"experiment": "quickstart"}, "S-one: experiment: 'quickstart' is for empirical claims; leave it out"),
        ({"parts": None}, "S-one: parts: missing; they say what count must give"),
        ({"parts": [{"of": "number", "expects": 1}]}, "S-one: parts.1.expects: unknown key; known here: .*expected"),
        ({"parts": [{"of": "number"}]}, "S-one: parts.1.number: has none of expected, at_least, at_most; give one"),
        (
            {"parts": [{"of": "number", "expected": 1, "at_least": 1}]},
            "S-one: parts.1.number: has expected and at_least of expected, at_least, at_most; give one",
        ),
        ({"parts": [{"of": "map", "expected": [1], "within": 1}]}, "S-one: parts.1.map: within 1.0 needs a number"),
        ({"rule": None}, "S-one: rule: missing"),
        ({"design": DESIGN}, "S-one: design: is for claims that the runs of an experiment decide; name the experiment"),
        ({"design": {**DESIGN, "looks": [6, 3]}}, "S-one: design.*looks: .*in ascending order, each once"),
        ({"design": {**DESIGN, "looks": [3, 6]}}, "S-one: design.*spending: missing; several looks need"),
        (
            {"design": {**DESIGN, "looks": [3, 6], "spending": [0.02, 0.02]}},
            "S-one: design.*spending: the levels add up to 0.04, above 0.025",
        ),
        ({"design": {**DESIGN, "written": "2026-11-27"}}, "S-one: design.written: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}") as caught:
        load(tmp_path, row(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_an_id_may_occur_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^S-one: id: is in the ledger twice"):
        load(tmp_path, row(), row())


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="documents and a list of claims, and nothing else"):
        load(tmp_path, row(), version=2)
    with pytest.raises(SpecError, match="row 1 is not a mapping"):
        load(tmp_path, "S-one")
    with pytest.raises(SpecError, match=r"ledger: no file .*none\.yaml"):
        load_ledger(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("claims: [", encoding="utf-8")
    with pytest.raises(SpecError, match=r"broken\.yaml: not YAML"):
        load_ledger(tmp_path / "broken.yaml")


def test_an_unknown_id_is_answered_with_those_there_are(tmp_path: Path) -> None:
    ledger = load(tmp_path, row(), row(id="S-two"))
    assert [claim.id for claim in ledger.only(["S-two"]).claims] == ["S-two"]
    with pytest.raises(SpecError, match="claim: 'S-three' is not in the ledger; there are S-one, S-two"):
        ledger.only(["S-three"])


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "null", "[]", "claims: []", "documents: {}\nclaims:\n"])
def test_a_file_that_is_no_ledger_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError, match=r"own\.yaml: has to be a mapping with documents and a list of claims"):
        load_ledger(file)


@pytest.mark.parametrize("parts", ["", "5"])
def test_parts_that_are_no_list_are_a_mistake(tmp_path: Path, parts: str) -> None:
    file = tmp_path / "own.yaml"
    row = "id: S-one, kind: static, statement: s, source: {document: S}, claimed: c, rule: r, protocol: p"
    row = f"{{{row}, measurement: m, parts: {parts}}}"
    file.write_text(f"documents: {{S: notes}}\nclaims:\n- {row}\n", encoding="utf-8")
    with pytest.raises(SpecError, match="S-one: parts"):
        load_ledger(file)
