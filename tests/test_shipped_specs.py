"""The shipped specs by name: `dp specs`, copies, and messages that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli import dp, fails

from dualproc import load_spec
from dualproc.cli.bench_jobs import plan_jobs
from dualproc.errors import SpecError
from dualproc.resolve import read_checked
from dualproc.spec import locate, shipped_specs

ROOT = Path(__file__).parents[1]
NAMES = list(shipped_specs())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty folder."""
    monkeypatch.chdir(tmp_path)


def test_every_spec_in_specs_has_a_name_and_files_that_only_extend_have_none() -> None:
    files = {*(ROOT / "specs").rglob("*.yaml")} - {ROOT / "specs/real/base/models.yaml"}
    assert {file.resolve() for file in shipped_specs().values()} == files
    assert "line_weight" in NAMES
    assert "real/line_weight" in NAMES


def test_a_name_is_a_spec_in_python_and_on_the_command_line() -> None:
    assert load_spec("line_weight", variant="thick").name == "line_weight"
    assert "ok: real_horizon, variants high, middle, low" in dp("spec", "check", "real/horizon")
    assert {job.spec.label for job in plan_jobs(["horizon"], (), "low", Path("runs"))} == {"horizon/low"}


def test_a_file_of_the_same_name_is_chosen_by_its_ending() -> None:
    Path("line_weight.yaml").write_text("schema_version: 2\n", encoding="utf-8")
    Path("horizon").mkdir()
    assert locate("line_weight.yaml") == Path("line_weight.yaml")
    assert load_spec("horizon", variant="low").name == "horizon"


def test_the_list_has_every_spec_with_its_variants() -> None:
    rows = {line.split()[0]: line for line in dp("specs").splitlines() if line}
    assert {*NAMES} <= {*rows}
    assert "thin, thick" in rows["line_weight"]
    assert "flux-schnell" in rows["real/palette"]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_the_same_spec(name: str) -> None:
    printed = dp("specs", "copy", name)
    copy = Path(f"{Path(name).name}.yaml")
    assert f"wrote {copy}\n" in printed
    assert f"dp run {copy}" in printed
    for ours, theirs in zip(read_checked(copy).each(), read_checked(name).each(), strict=True):
        a, b = (one.require().model_dump(mode="json") for one in (ours, theirs))
        assert _without_paths(a) == _without_paths(b)
    text = copy.read_text(encoding="utf-8")
    assert f"dp run {copy}" in text
    assert "specs/" not in text.replace("specs/images", "").replace("specs/real/images", "")


def _without_paths(value: object) -> object:
    """Plain data with the name and content of a file instead of its path."""
    if isinstance(value, dict):
        return {
            key: (Path(item).name, Path(item).read_bytes()) if key == "path" else _without_paths(item)
            for key, item in value.items()
        }
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def test_several_copies_share_the_files_that_they_use() -> None:
    dp("specs", "copy", "real/composition", "mine/one.yaml")
    dp("specs", "copy", "real/horizon", "mine/two.yaml")
    files = {file.relative_to("mine").as_posix() for file in Path("mine").rglob("*.*")}
    images = {"images/composition_box.png", "images/composition_line.png"}
    assert files == {"one.yaml", "two.yaml", "base/models.yaml", *images}


def test_a_copy_replaces_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("base").mkdir()
    Path("base/models.yaml").write_text("mine", encoding="utf-8")
    Path("line_weight.yaml").write_text("mine", encoding="utf-8")
    assert "line_weight.yaml exists already" in fails(capsys, "specs", "copy", "line_weight")
    assert "models.yaml exists already" in fails(capsys, "specs", "copy", "real/line_weight", "other.yaml")
    assert not Path("other.yaml").exists()
    assert Path("line_weight.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["line_wieght"], "did you mean `line_weight`?"),
        (["line_weight", "thick"], "expected a file that ends in .yaml or .yml, got 'thick'"),
        (["line_weight", "file.yaml/copy.yaml"], "cannot make the folder"),
    ],
)
def test_a_copy_that_is_not_possible_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file.yaml").write_text("", encoding="utf-8")
    assert message in fails(capsys, "specs", "copy", *arguments)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("specs/line_weight.yaml", "the shipped spec is called `line_weight`"),
        ("line_weight.yaml", "the shipped spec is called `line_weight`"),
        ("specs/real/horizon.yaml", "the shipped spec is called `real/horizon`"),
        ("specs/horizon", "the shipped spec is called `horizon`"),
        ("line_wieght", "did you mean `line_weight`?; `dp specs` lists"),
        ("mytask", "`dp specs` lists the shipped specs"),
        ("mytask.yaml", "`dp specs` lists the shipped specs"),
        ("x" * 300, ""),
    ],
)
def test_the_message_of_a_missing_file_names_the_shipped_spec(given: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(given)
    assert hint in (caught.value.problems[0].hint or "")
