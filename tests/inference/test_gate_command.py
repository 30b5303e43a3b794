"""`manage.py gate`: exit codes, table, JSON, JUnit, and refusals in one line."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from core.evidence.models import Gate, Run
from tests.inference.gate_data import World, damaged, finish_run, healthy, make_world

pytestmark = pytest.mark.django_db


def gate(*arguments: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of the command."""
    out, err = StringIO(), StringIO()
    try:
        call_command("gate", "--tenant", "alpha", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        return int(left.code or 0), out.getvalue(), err.getvalue()
    except CommandError as refused:
        return refused.returncode, out.getvalue(), str(refused)
    return 0, out.getvalue(), err.getvalue()


def measured(candidate: Any) -> World:
    world = make_world()
    finish_run(world.baseline, world.versions["questions"], healthy)
    finish_run(world.candidate, world.versions["questions"], candidate)
    return world


PAIR = ("--candidate", "1.1.0", "--baseline", "1.0.0")


def test_a_pass_exits_with_0_and_states_power_first() -> None:
    measured(healthy)
    code, out, _ = gate(*PAIR)
    assert code == 0
    assert out.index("Before the run") < out.index("VERDICT") < out.index("PASS:")


def test_a_failure_exits_with_1_and_names_what_and_where() -> None:
    measured(damaged)
    code, out, _ = gate("--product", "assistant", *PAIR)
    assert code == 1
    for part in ("FAIL", "questions-nll_gold", "length:long", "rollback", "POWER"):
        assert part in out


def test_json_is_one_document() -> None:
    measured(damaged)
    code, out, _ = gate(*PAIR, "--json")
    document = json.loads(out)
    assert (code, document["status"], document["exit_code"]) == (1, "fail", 1)
    assert {one["key"]: one["status"] for one in document["criteria"]} == {
        "questions-accuracy": "pass",
        "questions-nll_gold": "fail",
    }


def test_junit_has_a_case_per_criterion(tmp_path: Path) -> None:
    measured(damaged)
    file = tmp_path / "reports" / "gate.xml"
    gate(*PAIR, "--junit", str(file))
    suite = ElementTree.parse(file).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failed = suite.find("testcase[@name='questions-nll_gold']/failure")
    assert failed is not None and "length:long" in (failed.get("message") or "")


def test_not_decided_exits_with_3(tmp_path: Path) -> None:
    world = make_world()
    finish_run(world.baseline, world.versions["questions"], healthy)
    code, out, _ = gate(*PAIR, "--no-wait", "--json")
    assert (code, json.loads(out)["status"]) == (3, "not_run")
    assert Run.objects.filter(subject_digest=world.candidate.digest).count() == 1
    code, _, said = gate(*PAIR, "--timeout", "0.1")
    assert code == 3 and "did not finish within 0.1 seconds" in said


def test_a_candidate_may_be_given_by_digest() -> None:
    world = measured(healthy)
    assert gate("--candidate", world.candidate.digest[:20], "--baseline", "1.0.0")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--candidate", "9.9.9", "--baseline", "1.0.0"), "There are: assistant/1.1.0, assistant/1.0.0"),
        (("--candidate", "1.1.0", "--baseline", "1.1.0"), "both candidate and baseline"),
        ((*PAIR, "--product", "nothing"), "no product"),
        ((*PAIR, "--gate", "nothing"), "There are: assistant-quality"),
        ((*PAIR, "--gate", "nothing.json"), "cannot be read"),
        ((*PAIR, "--timeout", "0"), "above 0"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(arguments: tuple[str, ...], words: str) -> None:
    measured(healthy)
    code, _, said = gate(*arguments)
    assert code == 2 and words in said and "\n" not in said.strip()


def test_unknown_tenant_exits_with_2_and_lists_tenants() -> None:
    with pytest.raises(CommandError) as refused:
        call_command("gate", "--tenant", "nowhere", *PAIR, stdout=StringIO(), stderr=StringIO())
    assert refused.value.returncode == 2 and "alpha" in str(refused.value)


def test_a_gate_from_a_file_is_created_once_and_revised_when_it_changes(tmp_path: Path) -> None:
    measured(healthy)
    file = tmp_path / "strict.json"
    rule = {"metric": "nll_gold", "dataset": "questions", "rule": {"margin": 0.1}}
    file.write_text(json.dumps({"criteria": [rule]}))
    assert gate(*PAIR, "--gate", str(file))[0] == 0
    assert gate(*PAIR, "--gate", str(file))[0] == 0
    assert Gate.objects.filter(slug="strict").count() == 1
    file.write_text(json.dumps([{**rule, "rule": {"margin": 0.2}}]))
    gate(*PAIR, "--gate", str(file))
    assert Gate.objects.filter(slug="strict").count() == 2
    file.write_text('{"criteria": [{"metric": "beauty"}]}')
    code, _, said = gate(*PAIR, "--gate", str(file))
    assert code == 2 and "not a metric" in said


def test_the_tenant_may_be_left_out_when_only_one_has_the_releases() -> None:
    measured(healthy)
    out = StringIO()
    with pytest.raises(SystemExit) as left:
        call_command("gate", *PAIR, stdout=out, stderr=StringIO())
    assert left.value.code == 0
