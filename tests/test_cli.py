"""The command line: output, errors, and imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import dualproc
from dualproc import __version__, cli
from dualproc.errors import PluginError
from dualproc.spec import read_spec

Install = Callable[..., None]

SPEC = """\
schema_version: 1
name: demo
prompts: {train: [a cat], eval: [an owl]}
question: {template: "Is it thick?"}
reward: {type: half}
visual_prompt:
  layers:
    - {type: line, from: [0, 0.9], to: [1, 0.9], width: "{width}"}
    - type: text
      text: "two\\nlines: # no comment"
      at: [0.5, 0.5]
variants: {thin: {width: 0.01}, thick: {width: 0.05}}
generator: {type: painter}
judge: {type: oracle}
"""


@pytest.fixture
def spec_file(tmp_path: Path, install: Install) -> str:
    install("good")
    file = tmp_path / "demo.yaml"
    file.write_text(SPEC)
    return str(file)


def dp(*arguments: str) -> str:
    """The stdout of a command that succeeds."""
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The stderr of a command that fails with exit code 2, without a traceback."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def imported_by(code: str) -> set[str]:
    """The modules that a new interpreter has imported after it ran a line of code."""
    report = "import sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", f"{code}; {report}"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(json.loads(printed.splitlines()[-1]))


# all commands


def test_version() -> None:
    assert dp("--version") == f"dualproc {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        "", "run", "generate", "plan", "score", "ask", "bench", "compare", "plugins", "plugins show", "plugins new",
        "plugins judges", "spec", "spec check", "spec show", "specs", "specs copy", "schema",
    ],
)  # fmt: skip
def test_help_has_an_example(command: str) -> None:
    lines = [line.strip() for line in dp(*command.split(), "--help").splitlines()]
    assert any(line.startswith(f"dp {command}".strip()) for line in lines)


@pytest.mark.parametrize(
    "code",
    [
        "import dualproc; import dualproc.cli",
        "import dualproc.registry, dualproc.resolve",
        "import dualproc.cli; dualproc.cli.app(['--help'], standalone_mode=False)",
        "import dualproc.cli; dualproc.cli.app(['plugins'], standalone_mode=False)",
        "import dualproc.cli; dualproc.cli.app(['specs'], standalone_mode=False)",
        "import dualproc.cli; dualproc.cli.app(['plugins', 'show', 'rewards/yes_no_gap'], standalone_mode=False)",
        "import dualproc.cli; dualproc.cli.app(['plugins', 'show', 'visual_prompts/text'], standalone_mode=False)",
    ],
)
def test_help_and_plugin_listings_import_no_heavy_library(code: str) -> None:
    assert not imported_by(code) & {"torch", "diffusers", "transformers", "PIL", "numpy", "rich"}


def test_the_package_lists_its_names_without_importing_them() -> None:
    assert {"Engine", "TaskSpec", "load_spec", "__version__"} <= set(dir(dualproc))
    assert not imported_by("import dualproc; dir(dualproc)") & {"torch", "pydantic"}
    assert [getattr(dualproc, name).__name__ for name in dualproc.__all__] == ["Engine", "TaskSpec", "load_spec"]


def test_help_does_not_import_pydantic() -> None:
    code = "import dualproc.cli; dualproc.cli.app(['--help'], standalone_mode=False)"
    assert "pydantic" not in imported_by(code)


def test_user_error_goes_to_stderr_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "plugins", "show", "visual_prompts/lin")
    assert message.startswith("error: no visual prompt plugin is called 'lin'\n  did you mean `line`?")


def test_error_file_holds_the_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "error"
    with pytest.raises(SystemExit):
        cli.main(["plugins", "show", "visual_prompts/lin"], error_file=str(file))
    assert capsys.readouterr().err == f"error: {file.read_text()}\n"


def test_bug_in_dualproc_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", broken_app(broken))
    with pytest.raises(ZeroDivisionError):
        cli.main(["go"])


def test_keyboard_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", broken_app(interrupted))
    with pytest.raises(SystemExit) as caught:
        cli.main(["go"])
    assert caught.value.code == 130


def broken_app(command: Callable[[], None]) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("go")(command)
    return app


# dp plugins


def test_plugins_lists_names_versions_and_entry_points(install: Install) -> None:
    install("good", "broken")
    rows = [line.split() for line in dp("plugins").splitlines()]
    assert rows[0][:3] == ["kind", "name", "distribution"]
    assert ["rewards", "half", "acme-good", "1.2", "acme_good:HALF"] in rows
    assert ["rewards", "raises", "acme-broken", "0.3", "acme_broken.raises:Reward"] in rows
    assert ["judges", "tiny", "dualproc", __version__, "dualproc.plugins.judges.presets:TINY"] in rows


def test_plugins_lists_one_kind(install: Install) -> None:
    install("good")
    rows = [line.split() for line in dp("plugins", "scorers").splitlines()[1:]]
    assert {row[0] for row in rows} == {"scorers"}
    assert "brightness" in {row[1] for row in rows}


def test_plugins_reports_unreadable_metadata(install: Install) -> None:
    install("garbled_file")
    result = CliRunner().invoke(cli.app, ["plugins"])
    assert result.exit_code == 0
    assert "yes_no_gap" in result.stdout
    assert result.stderr.count("skipped:") == 1
    assert "garbled_file-1.0.dist-info" in result.stderr


def test_plugins_show_prints_parameters() -> None:
    lines = [line.strip() for line in dp("plugins", "show", "visual_prompts/line").splitlines()]
    assert "A straight line or arrow of exact thickness." in lines
    assert "width  number > 0 and <= 1  (required)" in lines
    assert "arrow  boolean  (default false)" in lines
    assert (
        lines[lines.index("width  number > 0 and <= 1  (required)") + 1]
        == "Thickness, as a fraction of the image height."
    )


def test_plugins_show_prints_every_kind_of_type() -> None:
    shown = dp("plugins", "show", "visual_prompts/points") + dp("plugins", "show", "visual_prompts/text")
    shown += dp("plugins", "show", "visual_prompts/box")
    place = "[number >= 0 and <= 1, number >= 0 and <= 1]"
    assert f"points  list of {{at: {place}, label: string or none}}  (required)" in shown
    assert 'anchor  "top left" | "top" |' in shown
    assert "fill  string or none  (default none)" in shown


def test_plugins_show_prints_the_values_of_a_preset(install: Install) -> None:
    install("good")
    shown = dp("plugins", "show", "rewards/half")
    assert "Half a reward." in shown
    assert "value  number >= 0  (this preset: 0.5)" in shown
    assert 'unit  string  (default "points")' in shown


def test_plugins_show_asks_for_the_distribution_of_an_ambiguous_name(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("twin_a", "twin_b")
    assert "write 'twin-a/twin' or 'twin-b/twin'" in fails(capsys, "plugins", "show", "rewards/twin")
    assert "The twin of distribution twin-b." in dp("plugins", "show", "rewards/twin-b/twin")


def test_plugins_show_requires_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected KIND/NAME, got 'tiny'" in fails(capsys, "plugins", "show", "tiny")


# dp spec


def test_spec_check_prints_variants_and_plugins(spec_file: str) -> None:
    assert dp("spec", "check", spec_file) == (
        "ok: demo, variants thin, thick; plugins rewards/half, visual_prompts/line, visual_prompts/text, "
        "generators/painter, judges/oracle, scorers/tone\n"
    )
    assert dp("spec", "check", spec_file, "--variant", "thin").startswith("ok: demo, variant thin; plugins")


def test_spec_check_reports_every_mistake(spec_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "spec", "check", spec_file, "--set", "reward.worth=1", "--set", "judge.type=orakle")
    assert message.startswith("error: 2 mistakes in the spec:\n")
    assert "unknown key `worth`" in message
    assert "did you mean `oracle`?" in message


def test_spec_show_prints_every_value_with_its_origin(spec_file: str) -> None:
    shown = dp("spec", "show", spec_file, "--variant", "thin", "--set", "train.steps=50")
    origins = dict(line.split("  # ") for line in shown.splitlines() if "  # " in line)
    origins = {value.strip(): origin for value, origin in origins.items()}
    assert origins["name: demo"] == f"{spec_file}:2"
    assert origins["width: 0.01"] == f"{spec_file}:12"
    assert origins["steps: 50"] == "--set train.steps"
    assert origins["variant: thin"] == "--variant"
    assert origins["rank: 16"] == "default"


def test_output_of_spec_show_is_an_equal_spec(spec_file: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(dp("spec", "show", spec_file, "--variant", "thin"))
    assert read_spec(tmp_path / "shown.yaml").require() == read_spec(spec_file, variant="thin").require()


def test_spec_show_requires_a_variant(spec_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "one of: thin, thick" in fails(capsys, "spec", "show", spec_file)


# dp schema


def test_schema_is_json_with_plugin_parameters(install: Install) -> None:
    install("good", "broken")
    result = CliRunner().invoke(cli.app, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert "color" in schema["$defs"]["visual_prompts.line"]["properties"]
    assert "rewards.half" in schema["$defs"]
    assert "skipped: reward 'raises' (acme-broken 0.3" in result.stderr


def test_errors_are_red_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(text: str, *, err: bool, nl: bool) -> None:
        print(text, end="\n" if nl else "", file=sys.stderr if err else sys.stdout)

    monkeypatch.setattr(cli.output.typer, "echo", echo)
    cli.output.print_error(PluginError("broken", hint="fix it"))
    assert capsys.readouterr().err == "\x1b[31m\x1b[1merror:\x1b[0m broken\n  fix it\n"
