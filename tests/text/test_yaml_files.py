"""What users write into YAML files is read as they meant it, or answered with one sentence, and never takes long."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reproduce.authoring import experiment_text
from reproduce.config import from_yaml
from reproduce.errors import SpecError
from reproduce.grid import plan_without_data
from reproduce.spec import ExperimentConfig, load_experiment
from reproduce.text.yaml_files import LARGEST_FILE, parse_yaml, read_yaml
from slurm.profile import Profile

EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "data": {"path": "pictures"},
    "recipe": {"epochs": 2, "batch_size": 64, "learning_rate": 0.1, "resolution": 32},
    "arms": {"none": {"network": {"aux": "none"}}, "both": {"network": {"aux": "both"}}},
    "seeds": [0, 1],
}
SECONDS = 2.0
"""The longest that any file may take."""
TEXT = yaml.safe_dump(EXPERIMENT, sort_keys=False)


def planned(text: str) -> list[str]:
    experiment = from_yaml(ExperimentConfig, text, what="an experiment", where="mine.yaml")
    return [run.name for run in plan_without_data(experiment)]


def refused(text: str) -> str:
    """The sentence with which an experiment is refused."""
    with pytest.raises(SpecError) as raised:
        planned(text)
    return str(raised.value)


def bomb(item: str) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {item % ', '.join([f'*a{n - 1}'] * 9)}" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\nname: b", "mine.yaml: line 2: the key name stands here twice; keep one of the two"),
        ("\u00e9: 1\ne\u0301: 2", "line 2: the key \u00e9 stands here twice"),
        ("arms:\n  off: {}", 'line 2: the key off needs quotes, since YAML reads it as a truth value: "off"'),
        ("arms: {001: {}}", 'the key 001 needs quotes, since YAML reads it as a number: "001"'),
        ("arms: {null: {}}", 'the key null needs quotes, since YAML reads it as nothing: "null"'),
        ("account: 0123", '0123 is not a plain number: YAML reads it in base 2, 8, 16 or 60; for text write "0123"'),
        ("time: 12:00:00", 'for text write "12:00:00"'),
        (f"epochs: {'9' * 400}", r"99\.\.\. \(400 characters\) is too large a number; use at most 18 digits"),
        ("[" * 900, "line 1: nested more than 20 levels deep; close the brackets"),
        (bomb("[%s]"), "more than 10000 values once its aliases are replaced; use fewer aliases"),
        (bomb("{<<: [%s]}"), "more than 10000 values once its aliases are replaced"),
        ("a: &a [*a]", "an alias stands for what it is part of"),
        ("1: {2: 3}\n? [a]\n: b", "needs quotes"),
        ("? [a]\n: b", "a list or a mapping cannot be a key; write a name"),
        ("a: !!python/object:os.system x", r"the tag .*os\.system has no meaning here; remove it"),
        ('a: "\\ud800"', r"U\+D800 is not a character on its own"),
        ('a: "\\UFFFFFFFF"', "a character that Unicode does not have"),
        ("a: \x00", r"not YAML: line 1: the character U\+0000 is not text; is it the right file\?"),
        ("a: [", "not YAML: line 1: "),
        ("- 1\n" * 60_000, "more than 10000 values; is it the right file"),
        ("x" * (LARGEST_FILE + 1), "larger than 256 KiB; is it the right file"),
    ],
    ids=lambda value: re.sub(r"\W+", "-", value[:20]) if isinstance(value, str) else None,
)
def test_what_a_user_cannot_have_meant_is_one_sentence(text: str, sentence: str) -> None:
    began = time.thread_time()
    with pytest.raises(SpecError, match=sentence) as raised:
        parse_yaml(text, where="mine.yaml")
    assert time.thread_time() - began < SECONDS
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith("mine.yaml: ")


def test_aliases_merges_dates_and_numbers_keep_their_meaning() -> None:
    text = "base: &base {a: 1, b: 2}\nown: {<<: *base, b: 3}\nday: 2026-11-27\nn: [1_000, -1, 1.5, .inf, -.inf, yes]"
    assert parse_yaml(text, where="") == {
        "base": {"a": 1, "b": 2},
        "own": {"a": 1, "b": 3},
        "day": "2026-11-27",
        "n": [1000, -1, 1.5, float("inf"), float("-inf"), True],
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (TEXT.encode("utf-16"), "not UTF-8 at byte 0; save the file as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "the character U+007F is not text"),
        (b"name: \x80", "not UTF-8 at byte 6"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=re.escape(sentence)):
        read_yaml(tmp_path / "mine.yaml")


def test_a_path_that_is_too_long_is_no_such_file() -> None:
    with pytest.raises(SpecError, match="no such file"):
        load_experiment(f"{'a' * 5000}.yaml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": [-1]}, "seeds.0: -1: use at least 0"),
        ({"seeds": ["one"]}, "seeds.0: 'one': use a whole number"),
        ({"seeds": 3}, "seeds: 3: use a list, such as [a, b]"),
        ({"data": {"path": "x" * 5000}}, "data.path: 'xxx"),
        ({"data": {"path": "a\x00b"}}, "data.path: 'a\\x00b': use one line of text"),
        ({"data": {"path": False}}, "data.path: False: use text, in quotes where YAML would read it as"),
        ({"arms": {"": {}}}, "arms.'': an arm needs a name"),
        (
            {"arms": {"a:b": {}}},
            "arms.a:b: the name of this arm has a ':', which separates names of runs; use a hyphen",
        ),
        ({"arms": {"a/b": {}}}, "arms.a/b: the name of this arm has a '/'"),
        ({"arms": {"a\x1b[31m": {}}}, "has spaces around it or characters that cannot be shown"),
        ({"arms": {"a": 1}}, "arms.a: 1: use a mapping of names to values"),
        ({"recipe": {**EXPERIMENT["recipe"], "resolution": 100_000}}, "recipe.resolution: 100000: use at most 4096"),
        ({"recipe": {**EXPERIMENT["recipe"], "schedule": "cosin"}}, "; did you mean cosine?"),
        ({"recipe": {**EXPERIMENT["recipe"], "flip": "maybe"}}, "recipe.flip: 'maybe': use true or false"),
        ({"recipe": {**EXPERIMENT["recipe"], "learning_rate": "1e999"}}, "use a finite number"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_field_value_and_hint(change: dict[str, Any], sentence: str) -> None:
    said = refused(yaml.safe_dump({**EXPERIMENT, **change}))
    assert sentence in said
    assert len(said) < 300
    assert "input should" not in said


def test_a_file_of_another_kind_is_answered_in_few_lines() -> None:
    said = refused(yaml.safe_dump({**EXPERIMENT, **{f"key{number}": {} for number in range(2000)}}))
    assert said.splitlines()[-1] == "mine.yaml: there are 1980 more mistakes; is this the right file?"
    assert len(said.splitlines()) == 21


def test_an_arm_has_one_name_in_both_forms_of_unicode() -> None:
    arms = {"caf\u00e9": {"network": {"aux": "none"}}}
    assert planned(yaml.safe_dump({**EXPERIMENT, "arms": arms, "seeds": [0]}, allow_unicode=True)) == ["caf\u00e9 s0"]
    arms = {"cafe\u0301": {"network": {"aux": "none"}}}
    assert planned(yaml.safe_dump({**EXPERIMENT, "arms": arms, "seeds": [0]}, allow_unicode=True)) == ["caf\u00e9 s0"]


FIELDS = ["name", "data", "path", "recipe", "epochs", "network", "arms", "seeds", "resources", "aux", "<<", "probes"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from([*FIELDS, "none"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.one_of(
    st.text(alphabet=st.sampled_from(list("ab01_:-?!&*<>{}[]|#%'\"\\,. \n\t=~\u00e9\x00\x1b"))),
    VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True)),
    st.dictionaries(st.sampled_from(list(EXPERIMENT)), VALUES, max_size=2).map(
        lambda change: yaml.safe_dump({**EXPERIMENT, **change})
    ),
    st.tuples(st.integers(0, len(TEXT)), st.text(max_size=6)).map(lambda cut: TEXT[: cut[0]] + cut[1] + TEXT[cut[0] :]),
    st.integers(0, len(TEXT)).map(lambda length: TEXT[:length]),
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS)
def test_any_document_gives_a_plan_or_a_sentence_in_two_seconds(text: str) -> None:
    began = time.thread_time()
    with contextlib.suppress(SpecError):  # any other error is a bug
        experiment = from_yaml(ExperimentConfig, text, what="an experiment", where="mine.yaml")
        runs = plan_without_data(experiment)
        again = from_yaml(ExperimentConfig, experiment_text(experiment, experiment.name), what="", where="")
        assert [run.key for run in plan_without_data(again)] == [run.key for run in runs]
    assert time.thread_time() - began < SECONDS


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Profile.model_fields)), VALUES, max_size=4))
def test_any_mapping_is_a_profile_or_a_sentence(content: dict[str, Any]) -> None:
    text = yaml.safe_dump({"time": "1:00:00", "cpus_per_node": 1, **content}, allow_unicode=True)
    with contextlib.suppress(SpecError):
        from_yaml(Profile, text, what="a profile", where="mine.yaml")
