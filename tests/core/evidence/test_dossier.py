"""The exported dossier: what the offline verifier accepts, and everything it must not."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.evidence.dossier import build_dossier_zip, dossier_freeze, raw_file_name, signature_payload
from core.evidence.verdicts import Waiver
from core.security.canonical import canonical_bytes, digest
from core.security.dsse import MANIFEST_PAYLOAD_TYPE, SIGNATURE_PAYLOAD_TYPE, envelope_create
from core.security.keys import generate_private_key, keyid_of, public_key_pem
from tests.core.evidence.cast import (
    KEY,
    NOW,
    archive_of,
    binary,
    continuous,
    decide,
    dossier_of,
    load_verifier,
    non_inferior,
    random_gate,
    spec,
)

VERIFY = load_verifier()


def small() -> tuple[dict[str, Any], dict[str, dict[str, Any]], str]:
    """A failing gate of two criteria over a few items, one of them waived."""
    specs = [spec(), spec("nll", non_inferior(0.05), metric="nll_gold")]
    samples = {
        "accuracy": binary(1, 1, 40),
        "nll": continuous([1.0] * 24, [1.0 + row**2 / 100 for row in range(24)]),
    }
    waiver = Waiver("nll", "known", NOW + timedelta(days=1), "bob", "alice")
    return dossier_of(specs, samples, decide(specs, samples, resamples=99), (waiver,))


SMALL = small()
ARCHIVE = archive_of(*SMALL)


def problems(archive: bytes, path: Path, wanted: str | None = None) -> list[tuple[str, str]]:
    path.write_bytes(archive)
    findings = VERIFY.Findings()
    VERIFY.check(VERIFY.read_archive(str(path), findings), wanted, findings)
    return [(one["file"], one["problem"]) for one in findings.problems]


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rezip(files: dict[str, bytes]) -> bytes:
    """The files in the canonical container, so that only their content can be at fault."""
    return bytes(VERIFY.write_zip(files)[0])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments], capture_output=True, text=True, check=False
    )


# --- what holds ----------------------------------------------------------------------------------------------


def test_the_archive_checks_itself_with_nothing_but_python(tmp_path: Path) -> None:
    (tmp_path / "d.zip").write_bytes(ARCHIVE)
    with zipfile.ZipFile(tmp_path / "d.zip") as opened:
        assert opened.testzip() is None
        opened.extractall(tmp_path / "open")
    script = str(tmp_path / "open" / "verify.py")
    for arguments in ([str(tmp_path / "d.zip")], [], [str(tmp_path / "open"), "--public-key", keyid_of(KEY)]):
        result = run(script, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        assert keyid_of(KEY) in result.stdout and "OK: nothing was changed" in result.stdout
        assert "alice-0 as pmo, go" in result.stdout and "with waivers: inconclusive" in result.stdout


def test_findings_as_json(tmp_path: Path) -> None:
    (tmp_path / "d.zip").write_bytes(ARCHIVE)
    script = tmp_path / "verify.py"
    script.write_bytes(members(ARCHIVE)["verify.py"])
    found = json.loads(run(str(script), str(tmp_path / "d.zip"), "--json").stdout)
    assert found["ok"] and found["dossier_digest"] == SMALL[2] and found["fingerprint"] == keyid_of(KEY)
    assert found["gates"][0]["criteria"] == {"accuracy": "inconclusive", "nll": "fail"}


def test_same_arguments_same_bytes() -> None:
    assert archive_of(*SMALL) == ARCHIVE


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_the_verifier_computes_every_verdict_and_number_again(tmp_path_factory: Any, seed: int) -> None:
    specs, samples, report = random_gate(seed, largest=50)
    archive = archive_of(*dossier_of(specs, samples, report))
    assert problems(archive, tmp_path_factory.getbasetemp() / "random.zip") == []


def test_a_dossier_may_hold_several_gates(tmp_path: Path) -> None:
    gates, raw = [], {}
    for seed in (3, 5):
        specs, samples, report = random_gate(seed, largest=40)
        documents = {f"{seed}/{key}": one.to_raw() for key, one in samples.items() if one is not None}
        raw.update(documents)
        gates.append(
            {
                "gate": {"slug": f"gate-{seed}", "version": 1, "criteria": [one.to_dict() for one in specs]},
                "gate_report": report.to_dict(),
                "evidence": {
                    key: raw_file_name(f"{seed}/{key}") for key, one in samples.items() if one is not None
                },
            }
        )
    frozen, frozen_digest = dossier_freeze({"gates": gates}, raw)
    assert problems(archive_of(frozen, raw, frozen_digest), tmp_path / "d.zip") == []
    gates[1]["gate_report"]["criteria"][0]["status"] = (
        "pass" if report.criteria[0].status != "pass" else "fail"
    )
    frozen, frozen_digest = dossier_freeze({"gates": gates}, raw)
    found = problems(archive_of(frozen, raw, frozen_digest), tmp_path / "d.zip")
    assert any("by its raw numbers, the dossier says" in text for _, text in found)


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        ({}, ""),
        (
            {"without_waivers": "stale", "with_waivers": "stale", "stale_because": ["The dataset changed."]},
            "",
        ),
        ({"without_waivers": "stale", "with_waivers": "stale"}, "the verdict is stale"),
        ({"without_waivers": "pass"}, "its gate report says fail"),
        ({"with_waivers": "pass"}, "can only be inconclusive"),
        ({"waived": []}, "can only be fail"),
        ({"waived": ["nll", "accuracy"], "with_waivers": "pass"}, "waives accuracy, nll without a waiver"),
        ({"waived": None}, "cannot be read"),
    ],
)
def test_the_verdict_shown_must_follow_from_the_report_and_the_waivers(
    summary: dict[str, Any], says: str, tmp_path: Path
) -> None:
    dossier, raw, _ = small()
    dossier["verdict"] = {
        "without_waivers": "fail",
        "with_waivers": "inconclusive",
        "stale_because": [],
        "waived": ["nll"],
        **summary,
    }
    found = problems(archive_of(dossier, raw, digest(dossier)), tmp_path / "d.zip")
    assert bool(found) == bool(says) and says in " ".join(text for _, text in found)


def test_unsigned_and_often_signed_dossiers_are_valid(tmp_path: Path) -> None:
    for count in (0, 12):
        assert problems(archive_of(*SMALL, signatures=count), tmp_path / "d.zip") == []


# --- what does not -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_zip_is_caught_and_placed(
    tmp_path_factory: Any, position: int, flip: int
) -> None:
    changed = bytearray(ARCHIVE)
    changed[position] ^= flip
    found = problems(bytes(changed), tmp_path_factory.getbasetemp() / "flipped.zip")
    assert found
    where = next(
        (name for start, name in reversed(VERIFY.write_zip(members(ARCHIVE))[1]) if start <= position), ""
    )
    if where in members(ARCHIVE):
        assert where in [name for name, _ in found] or any(where in text for _, text in found)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_changed_byte_of_any_file_is_caught_and_the_file_named(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    files = members(ARCHIVE)
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    files[name] = bytes(content)
    found = problems(rezip(files), tmp_path_factory.getbasetemp() / "file.zip")
    assert name in [file for file, _ in found], found


@pytest.mark.parametrize("name", sorted(members(ARCHIVE)))
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    files = members(ARCHIVE)
    del files[name]
    assert name in [file for file, _ in problems(rezip(files), tmp_path / "d.zip")]


@pytest.mark.parametrize(
    "name", ["notes.txt", "raw/more.json", "signatures/9.dsse.json", "keys/other.pub", "../evil"]
)
def test_an_added_file_is_named(name: str, tmp_path: Path) -> None:
    found = problems(rezip({**members(ARCHIVE), name: b"{}"}), tmp_path / "d.zip")
    assert (name, "is not in the manifest: it was added") in found


def test_a_changed_file_in_an_unpacked_folder_is_named(tmp_path: Path) -> None:
    for name, content in members(ARCHIVE).items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    target = next((tmp_path / "raw").iterdir())
    target.write_bytes(target.read_bytes() + b" ")
    result = run(str(tmp_path / "verify.py"))
    assert result.returncode == 1 and f"raw/{target.name}: was changed" in result.stdout


@pytest.mark.parametrize("extra", [b"x", b"\0" * 40])
def test_bytes_before_or_after_the_zip_are_caught(extra: bytes, tmp_path: Path) -> None:
    for archive in (ARCHIVE + extra, extra + ARCHIVE):
        assert problems(archive, tmp_path / "d.zip")[0][0] == "d.zip"


def test_a_cut_archive_is_not_valid(tmp_path: Path) -> None:
    for length in range(100, len(ARCHIVE), len(ARCHIVE) // 7):
        assert problems(ARCHIVE[:length], tmp_path / "d.zip")


def forged(change: Any, *, resign: bool, tmp_path: Path) -> list[tuple[str, str]]:
    """A dossier changed by someone who writes a perfectly consistent archive, with or without the tenant's key."""
    dossier = json.loads(json.dumps(SMALL[0]))
    raw = json.loads(json.dumps(SMALL[1]))
    change(dossier, raw)
    dossier["raw"] = {raw_file_name(name): digest(document) for name, document in raw.items()}
    key = KEY if resign else generate_private_key()
    keys = {keyid_of(one): public_key_pem(one) for one in (KEY, key)}
    old = json.loads(members(ARCHIVE)["signatures/1.dsse.json"])
    new = envelope_create(
        signature_payload(
            dossier_digest=digest(dossier),
            signer="alice",
            role="pmo",
            position="go",
            signed_at=NOW.isoformat(),
        ),
        SIGNATURE_PAYLOAD_TYPE,
        key,
    )
    archive = build_dossier_zip(
        dossier,
        raw,
        [new if resign else old],
        keys,
        None,
        lambda manifest: envelope_create(manifest, MANIFEST_PAYLOAD_TYPE, key),
    )
    return problems(archive, tmp_path / "d.zip", keyid_of(KEY))


def better_numbers(dossier: dict, raw: dict) -> None:
    raw["nll"]["candidate"] = raw["nll"]["baseline"]


def passing_criterion(dossier: dict, raw: dict) -> None:
    dossier["gate_report"]["criteria"][1]["status"] = "pass"


def passing_gate(dossier: dict, raw: dict) -> None:
    dossier["gate_report"]["status"] = "pass"


def smaller_p(dossier: dict, raw: dict) -> None:
    dossier["gate_report"]["criteria"][0]["p_value"] += 1e-5


def wider_margin(dossier: dict, raw: dict) -> None:
    dossier["gate"]["criteria"][1]["rule"]["margin"] = 5.0


def dropped_criterion(dossier: dict, raw: dict) -> None:
    del dossier["gate"]["criteria"][1]


def expired_waiver(dossier: dict, raw: dict) -> None:
    dossier["waivers"][0]["expires_at"] = NOW.isoformat()


def lost_numbers(dossier: dict, raw: dict) -> None:
    dossier["evidence"]["nll"] = None


def other_seed(dossier: dict, raw: dict) -> None:
    dossier["gate_report"]["seed"] += 1


CHANGES = [
    better_numbers,
    passing_criterion,
    passing_gate,
    smaller_p,
    wider_margin,
    dropped_criterion,
    expired_waiver,
    lost_numbers,
    other_seed,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_verdict_that_does_not_follow_is_caught_even_when_properly_signed(
    change: Any, tmp_path: Path
) -> None:
    found = forged(change, resign=True, tmp_path=tmp_path)
    assert found and {name for name, _ in found} == {"dossier.json"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_forger_without_the_key_is_caught_by_signature_and_fingerprint(change: Any, tmp_path: Path) -> None:
    found = dict(forged(change, resign=False, tmp_path=tmp_path))
    assert "not this one" in found["signatures/1.dsse.json"]
    assert "not by" in found["manifest.dsse.json"]


def test_the_unchanged_forgery_holds(tmp_path: Path) -> None:
    """The forger's tools above make valid archives when nothing is changed, so the tests above test something."""
    assert forged(lambda dossier, raw: None, resign=True, tmp_path=tmp_path) == []


def test_another_key_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    other = generate_private_key()
    (tmp_path / "other.pem").write_bytes(public_key_pem(other))
    (tmp_path / "d.zip").write_bytes(ARCHIVE)
    (tmp_path / "verify.py").write_bytes(members(ARCHIVE)["verify.py"])
    result = run(
        str(tmp_path / "verify.py"), str(tmp_path / "d.zip"), "--public-key", str(tmp_path / "other.pem")
    )
    assert result.returncode == 1 and keyid_of(other) in result.stdout


@pytest.mark.parametrize(
    ("content", "arguments"), [(b"no zip", []), (None, []), (ARCHIVE, ["--public-key", "nonsense"])]
)
def test_what_is_no_dossier_is_said_in_one_line(
    content: bytes | None, arguments: list[str], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "d.zip").write_bytes(content)
    (tmp_path / "verify.py").write_bytes(members(ARCHIVE)["verify.py"])
    result = run(str(tmp_path / "verify.py"), str(tmp_path / "d.zip"), *arguments)
    assert (
        result.returncode == 2 and "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    )


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(sorted(members(ARCHIVE))),
        st.sampled_from(
            [b"", b"{}", b"[]", b"null", b"1", b"\xff\xfe", b'{"a":NaN}', b'{"files":{"a":1}}', b"[" * 5000]
        ),
        min_size=1,
    )
)
def test_nonsense_in_any_file_is_a_finding_and_never_a_traceback(tmp_path_factory: Any, junk: dict) -> None:
    found = problems(rezip({**members(ARCHIVE), **junk}), tmp_path_factory.getbasetemp() / "junk.zip")
    assert found
    keys = {name for name in junk if name.startswith("keys/") or name == "manifest.dsse.json"}
    if "manifest.json" not in junk or not keys:  # with neither manifest readable nothing can be compared
        assert {name for name, _ in found} >= set(junk)


# --- building ------------------------------------------------------------------------------------------------


def test_raw_numbers_other_than_the_frozen_ones_are_refused() -> None:
    dossier, raw, _ = small()
    raw["nll"]["candidate"][0] = 0.0
    with pytest.raises(ValueError, match=r"raw/nll\.json are not those"):
        archive_of(dossier, raw, digest(dossier))


def test_names_become_safe_file_names_that_stay_apart() -> None:
    assert raw_file_name("nll_gold.law-1") == "raw/nll_gold.law-1.json"
    odd = [raw_file_name(name) for name in ("../x", "..\\x", "ä", "a b", "a/b", ".", "", "a?b")]
    assert len(set(odd)) == len(odd)
    assert all(
        name.startswith("raw/") and name.isascii() and ".." not in name and name.count("/") == 1
        for name in odd
    )


def test_the_verifier_reads_canonical_json_as_it_is_written() -> None:
    value = {"z": [1.0, 0.1, 1e-7, 1e22, True, None, "é\u2028\x01"], "a": {"\U0001f600": 1, "\ufb33": 2}}
    assert VERIFY.canonical(json.loads(json.dumps(value))).encode() == canonical_bytes(value)
