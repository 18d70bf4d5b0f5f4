"""Fuzz tests: a damaged spec is rejected with its mistakes, or it is loaded with exactly the values that it contains.

A few hundred cases by default, ten thousand with `-m nightly`.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_texts import PLAIN, SPEC, write

from dualproc import registry
from dualproc.cli import main
from dualproc.errors import SpecError
from dualproc.resolve import read_checked
from dualproc.spec import LoadedSpec, spec_from_dict
from dualproc.spec.mistakes import MAX_PROBLEMS
from dualproc.spec.reading import MAX_VALUES, read_text

Path_ = tuple[str | int, ...]

FILES = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
TEXTS = [*(file.read_text(encoding="utf-8") for file in FILES), PLAIN, SPEC]
"""All shipped specs, and two specs of the tests; the last one names a plugin that does not exist."""
LONGEST_REPORT = 200_000
"""In characters: a hundred mistakes of at most two thousand characters."""


def data_of(text: str) -> dict[str, Any]:
    tree, problems = read_text(text, "x")
    assert tree is not None
    assert not problems
    data: dict[str, Any] = tree.plain()
    return data


DATA = [data_of(text) for text in TEXTS[:-1]]


def read(folder: Path, content: str | bytes, name: str = "spec.yaml") -> LoadedSpec | SpecError:
    """Read a file: a complete spec, or the error that lists its mistakes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        loaded = read_checked(path)
    except SpecError as error:
        rejected = error
    else:
        assert all(one.spec is not None for one in loaded.each())
        return loaded
    assert rejected.problems
    assert all(problem.message for problem in rejected.problems)
    assert len(rejected.problems) <= MAX_PROBLEMS + 1
    assert len(str(rejected)) < LONGEST_REPORT
    return rejected


@pytest.fixture(scope="module", autouse=True)
def _cached_discovery() -> Iterator[None]:
    """Cache the list of installed plugins: it does not change here, and finding it takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "discover", functools.cache(registry.discover))
        yield


# --- a damaged text


TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "\n",
    "\t",
    '"',
    "'",
    "&a ",
    "*a",
    "!!int ",
    "|",
    "? ",
    "#",
    "%",
    "\x00",
    "\xff",
]
TOKENS += ["{width}", "\\ud800", "1e999", ".nan", "9" * 400, "<<: ", "---\n", "\ufeff", "\x85", "- " * 40, "null", "-1"]


def _flip(lines: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(b"\n".join(lines))
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _delete(lines: list[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(lines))
    return b"\n".join(lines[:start] + lines[start + rng.randint(1, 3) :])


def _indent(lines: list[bytes], rng: random.Random) -> bytes:
    index = rng.randrange(len(lines))
    lines[index] = rng.choice([b" ", b"  ", b"\t"]) + lines[index] if rng.random() < 0.7 else lines[index].lstrip()
    return b"\n".join(lines)


def _swap(lines: list[bytes], rng: random.Random) -> bytes:
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _insert(lines: list[bytes], rng: random.Random) -> bytes:
    data = b"\n".join(lines)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data))
        data = data[:start] + rng.choice(TOKENS).encode() + data[start + rng.randint(0, 6) :]
    return data


def _cut(lines: list[bytes], rng: random.Random) -> bytes:
    data = b"\n".join(lines)
    return data[: rng.randrange(len(data))]


DAMAGES = (_flip, _delete, _indent, _swap, _insert, _cut)


def damage(folder: Path, text: str, how: Callable[[list[bytes], random.Random], bytes], seed: int) -> None:
    """Read a damaged text; any exception other than SpecError fails the test."""
    read(folder, how(text.encode("utf-8").split(b"\n"), random.Random(seed)), random.Random(seed).choice(NAMES))


NAMES = ("spec.yaml", "spec.yml", "spec.json")
damages = given(text=st.sampled_from(TEXTS), how=st.sampled_from(DAMAGES), seed=st.integers(0, 2**32))
FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=100, **FUZZ)  # type: ignore[arg-type]
@damages
def test_a_damaged_text_is_loaded_or_its_mistakes_are_reported(tmp_path: Path, text: str, how: Any, seed: int) -> None:
    damage(tmp_path, text, how, seed)


@pytest.mark.nightly
@settings(max_examples=5000, **FUZZ)  # type: ignore[arg-type]
@damages
def test_five_thousand_damaged_texts(tmp_path: Path, text: str, how: Any, seed: int) -> None:
    damage(tmp_path, text, how, seed)


def test_every_duplicate_key_is_rejected(tmp_path: Path) -> None:
    lines = FILES[0].read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        key = line.strip().partition(":")[0]
        if key.isidentifier():
            found = read(tmp_path, "\n".join([*lines[: index + 1], line, *lines[index + 1 :]]))
            assert isinstance(found, SpecError), line
            assert all(problem.line for problem in found.problems), line


# --- damaged data


def walk(data: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value inside `data`, with its path."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from walk(value, (*path, key))


def at(data: Any, path: Path_) -> Any:
    for part in path:
        data = data[part]
    return data


def as_text(data: Any) -> str:
    """YAML text: JSON, except for numbers that JSON cannot represent."""
    if isinstance(data, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {as_text(value)}" for key, value in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(map(as_text, data)) + "]"
    if isinstance(data, float) and not math.isfinite(data):
        return ".nan" if math.isnan(data) else ".inf" if data > 0 else "-.inf"
    return json.dumps(data)


def is_free(path: Path_) -> bool:
    """Whether the spec chooses the keys at this path: fields of prompts, names of variants and of their values."""
    return path[0] == "variants" or path[:2] in (("prompts", "train"), ("prompts", "eval"))


Mistaken = tuple[dict[str, Any], str]
"""The changed data, and a text that the report must contain."""


def unknown_key(data: dict[str, Any], rng: random.Random) -> Mistaken:
    places = [(), *(path for path, value in walk(data) if isinstance(value, dict) and not is_free(path))]
    at(data, rng.choice(places))["zzz"] = rng.choice([1, "a", None, [], {}, True])
    return data, "zzz"


def renamed_key(data: dict[str, Any], rng: random.Random) -> Mistaken:
    path = rng.choice([path for path, _ in walk(data) if isinstance(path[-1], str) and not is_free(path)])
    place = at(data, path[:-1])
    place[f"{path[-1]}zz"] = place.pop(path[-1])
    return data, "type" if path[-1] == "type" else f"{path[-1]}zz"


def wrong_type(data: dict[str, Any], rng: random.Random) -> Mistaken:
    leaves = [path for path, value in walk(data) if not isinstance(value, (dict, list))]
    path = rng.choice(leaves)
    at(data, path[:-1])[path[-1]] = rng.choice([{"zzz": 1}, [[["zzz"]]], {"zzz": {"zzz": None}}])
    return data, _named(path)


def invalid_number(data: dict[str, Any], rng: random.Random) -> Mistaken:
    path = rng.choice([path for path, value in walk(data) if _is_number(value)])
    wrong: list[Any] = [math.nan, math.inf, -math.inf, 10**400]
    wrong += [] if path[0] == "variants" else ["zzz", "x" * 100_000]
    at(data, path[:-1])[path[-1]] = rng.choice(wrong)
    return data, _named(path)


def out_of_range(data: dict[str, Any], rng: random.Random) -> Mistaken:
    path = rng.choice([path for path, value in walk(data) if _is_number(value) and path[0] in ("train", "evaluation")])
    at(data, path[:-1])[path[-1]] = rng.choice([-1, -7.5, -(10**30), 10**30 if path[-1] != "strength" else -1])
    return data, _named(path)


def unknown_plugin(data: dict[str, Any], rng: random.Random) -> Mistaken:
    path = rng.choice([path for path, _ in walk(data) if path[-1] == "type"])
    name = rng.choice(["zzz-none", "zzz/none", "zzz\nnone", "zzz" * 200, "../zzz", "zzz:none"])
    at(data, path[:-1])["type"] = name
    return data, "zzz"


def too_deep(data: dict[str, Any], rng: random.Random) -> Mistaken:
    path = rng.choice([path for path, _ in walk(data)])
    value: Any = "zzz"
    for _ in range(rng.randint(40, 200)):
        value = [value] if rng.random() < 0.5 else {"zzz": value}
    at(data, path[:-1])[path[-1]] = value
    return data, "nested more than"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _named(path: Path_) -> str:
    """The last key of a path, which the report must name; "" for a variant's value, which may fail elsewhere."""
    return "" if path[0] == "variants" else str(next(part for part in reversed(path) if isinstance(part, str)))


MISTAKES = (unknown_key, renamed_key, wrong_type, invalid_number, out_of_range, unknown_plugin, too_deep)


def check_rejected(folder: Path, data: dict[str, Any], how: Callable[..., Mistaken], seed: int) -> None:
    """Make a mistake in valid data; it must be rejected, and the report must name it."""
    rng = random.Random(seed)
    changed, word = how(copy.deepcopy(data), rng)
    found = read(folder, as_text(changed), rng.choice(NAMES))
    assert isinstance(found, SpecError), changed
    assert word in str(found)
    assert all(problem.line == 1 for problem in found.problems if problem.source)


data_with_numbers = [data for data in DATA if "train" in data]
mistakes = given(data=st.sampled_from(data_with_numbers), how=st.sampled_from(MISTAKES), seed=st.integers(0, 2**32))


@settings(max_examples=110, **FUZZ)  # type: ignore[arg-type]
@mistakes
def test_a_mistake_is_rejected_and_named(tmp_path: Path, data: dict[str, Any], how: Any, seed: int) -> None:
    check_rejected(tmp_path, data, how, seed)


@pytest.mark.nightly
@settings(max_examples=2500, **FUZZ)  # type: ignore[arg-type]
@mistakes
def test_two_thousand_five_hundred_mistakes(tmp_path: Path, data: dict[str, Any], how: Any, seed: int) -> None:
    check_rejected(tmp_path, data, how, seed)


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(-(10**310), 10**310), st.floats(), st.text(max_size=8),
    st.sampled_from(["", "Yes", "no", "{width}", "{subject}", "x" * 3000, "0.5", "red", "tiny", "/etc/passwd", "a\nb"]),
    st.lists(st.integers(0, 1), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip
changes = given(
    data=st.sampled_from(DATA), where=st.integers(0, 10**6), value=values, how=st.sampled_from(["set", "add", "remove"])
)
DEFAULTED = ("candidates", "suffix")
"""Keys where `null` stands for a default that is not null."""


def check_values(folder: Path, data: dict[str, Any], where: int, value: Any, how: str) -> None:
    """Change a value of valid data; if the result is accepted, the spec has every value as written."""
    changed = copy.deepcopy(data)
    paths = [path for path, _ in walk(changed)]
    path = paths[where % len(paths)]
    place = at(changed, path[:-1])
    if how == "remove":
        del place[path[-1]]
    elif how == "set" or isinstance(place, dict):
        place[path[-1]] = value
    else:
        place.insert(int(path[-1]), value)
    found = read(folder, as_text(changed))
    if isinstance(found, SpecError):
        return
    for one in found.each():
        loaded = one.require().model_dump()
        for written, wanted in walk(changed):
            if isinstance(wanted, str) and "{" in wanted:
                continue  # filled by the variant
            if wanted is None and written[-1] in DEFAULTED:
                continue
            got = at(loaded, written)
            if isinstance(wanted, (dict, list)):
                assert len(got) >= len(wanted), written
            else:
                assert got == wanted, written
                assert isinstance(got, bool) == isinstance(wanted, bool), written


@settings(max_examples=90, **FUZZ)  # type: ignore[arg-type]
@changes
def test_accepted_values_stay_unchanged(tmp_path: Path, data: dict[str, Any], where: int, value: Any, how: str) -> None:
    check_values(tmp_path, data, where, value, how)


@pytest.mark.nightly
@settings(max_examples=2500, **FUZZ)  # type: ignore[arg-type]
@changes
def test_two_thousand_five_hundred_changes(
    tmp_path: Path, data: dict[str, Any], where: int, value: Any, how: str
) -> None:
    check_values(tmp_path, data, where, value, how)


# --- the command line


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return code if isinstance(code, int) else 0


@settings(max_examples=25, **FUZZ)  # type: ignore[arg-type]
@damages
def test_dp_spec_check_ends_with_0_or_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, how: Any, seed: int
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(how(text.encode("utf-8").split(b"\n"), random.Random(seed)))
    code = exit_code("spec", "check", str(path))
    out, err = capsys.readouterr()
    assert code in (0, 2)
    assert out.startswith("ok: ") if code == 0 else err.startswith("error: ")
    assert "Traceback" not in err


# --- single cases


def report(folder: Path, text: str | bytes, name: str = "spec.yaml") -> str:
    """The error for a text that must be rejected; it must not repeat long texts."""
    found = read(folder, text, name)
    assert isinstance(found, SpecError)
    assert len(str(found)) < 5_000 * len(found.problems)
    return str(found)


def test_a_yaml_bomb_is_not_expanded(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert "anchors and aliases" in report(tmp_path, PLAIN + bomb)
    assert "anchors and aliases" in report(tmp_path, PLAIN + "train: &t\n  steps: 3\n  <<: *t\n")
    assert "unknown key `<<`" in report(tmp_path, PLAIN + "train: {<<: {steps: 3}}\n")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!binary aGk=", "!mine x", "!!set {a}"]
)
def test_every_tag_is_rejected(tag: str, tmp_path: Path) -> None:
    assert "tags" in report(tmp_path, PLAIN + f"description: {tag}\n")


def test_ten_thousand_levels_are_rejected_in_yaml_and_json(tmp_path: Path) -> None:
    assert "nested more than" in report(tmp_path, '{"name": ' + "[" * 10_000 + "]" * 10_000 + "}", "spec.json")
    assert "nested more than" in report(tmp_path, PLAIN + "judge: " + '{"a": ' * 10_000 + "1" + "}" * 10_000)


@pytest.mark.parametrize(
    "number", ["9" * 5000, "-" + "9" * 5000, "1e" + "9" * 5000, "0x" + "f" * 5000, "." + "0" * 5000]
)
def test_a_number_of_five_thousand_digits_is_a_mistake(number: str, tmp_path: Path) -> None:
    for key in ("steps", "lr", "seed"):
        assert f"train.{key}" in report(tmp_path, PLAIN + f"train: {{{key}: {number}}}\n")


def test_huge_numbers_in_python_data_are_mistakes() -> None:
    data = data_of(PLAIN)
    for where in (
        {"train": {"lr": 10**5000}},
        {"judge": {"type": "tiny", "x": -(10**5000)}},
        {"train": {"steps": 10**5000}},
    ):
        with pytest.raises(SpecError, match="found"):
            spec_from_dict({**data, **where})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
def test_other_encodings_are_rejected(encoding: str, tmp_path: Path) -> None:
    content = (PLAIN + "description: caf\u00e9\n").encode(encoding)
    assert "UTF-8" in report(tmp_path, content) or "not allowed" in report(tmp_path, content)


def test_bytes_that_are_not_text_are_rejected_with_their_place(tmp_path: Path) -> None:
    assert ":5:1: the character '\\x00' is not allowed" in report(tmp_path, PLAIN.encode() + b"\0")
    assert ":5: the file is not UTF-8 text (byte 0xff)" in report(tmp_path, PLAIN.encode() + b"\xff")
    assert "not UTF-8" in report(tmp_path, os.urandom(50) + b"\xc3\x28" + os.urandom(50))
    assert isinstance(read(tmp_path, b"\xef\xbb\xbf" + PLAIN.encode()), LoadedSpec)


def test_a_file_of_fifty_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(SpecError, match="larger than 1000 kB"):
        read_checked(path)


def test_very_long_strings_are_rejected_and_not_repeated(tmp_path: Path) -> None:
    long = "p" * 100_000
    assert "at most 2000 characters" in report(tmp_path, PLAIN.replace("a cat", long))
    assert "at most 2000 characters" in report(tmp_path, PLAIN + f"judge: {{type: {long}}}\n")
    assert "unknown key" in report(tmp_path, PLAIN + f"? {long}\n: 1\n")
    assert "unknown key" in report(tmp_path, PLAIN + f"judge: {{type: tiny, ? {long} : 1}}\n")
    assert "duplicate key" in report(tmp_path, PLAIN + f"? {long}\n: 1\n? {long}\n: 1\n")
    repeated = PLAIN.replace("a cat", long[:2000]).replace("an owl", long[:2000])
    assert "also a training prompt" in report(tmp_path, repeated)


def test_a_hundred_thousand_prompts_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "name: n\nquestion: {template: q}\nprompts:\n  eval: [z]\n  train: ["
    assert "at most 10000 items" in report(tmp_path, f"{head}{','.join(f'p{i}' for i in range(10_001))}]\n")
    assert MAX_VALUES == 100_000
    monkeypatch.setattr("dualproc.spec.reading.MAX_VALUES", 1000)  # the real limit takes seconds
    assert "more than 1000 keys and values" in report(tmp_path, f"{head}{'a,' * 1000}]\n")


def test_at_most_a_hundred_mistakes_in_plugins_are_reported(tmp_path: Path) -> None:
    layers = "visual_prompt: {layers: [" + "{type: zzz}," * 90 + "]}\n"
    variants = "variants: {" + ",".join(f"v{i}: {{x: {i}}}" for i in range(50)) + "}\n"
    scorers = "scorers: [" + ", ".join(f"{{type: zzz{i}}}" for i in range(90)) + "]\n"
    assert "only the first 100 mistakes" in report(tmp_path, PLAIN + layers + scorers + variants)


def test_a_hint_does_not_list_ten_thousand_names(tmp_path: Path) -> None:
    variants = "variants: {a: {" + ", ".join(f"n{i}: 1" for i in range(10_000)) + "}}\n"
    found = report(tmp_path, PLAIN + variants + "scorers: [{type: kept, x: '{zzz} {yyy}'}]\n")
    assert "and 9980 more" in found
    assert len(found) < 5_000


def test_keys_that_are_not_words_are_read_as_strings_or_rejected(tmp_path: Path) -> None:
    for key in ("1", "1.5", "true", "null", "~", "''", "2024-01-01"):
        assert "unknown key" in report(tmp_path, PLAIN + f"{key}: 1\n")
    for key in ("[a]", "{a: b}"):
        assert "a key must be a single word" in report(tmp_path, PLAIN + f"? {key}\n: 1\n")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../spec.yaml", "sub/../../spec.yaml", "https://host/spec.yaml", "file:///etc/passwd", "a\\0b.yaml",
     "sub", "fifo.yaml", "link.yaml", "far/spec.yaml", "", "x.txt",
     "\\\\\\\\host\\\\share\\\\spec.yaml", "C:\\\\spec.yaml"],
)  # fmt: skip
def test_extends_accepts_only_a_spec_in_the_same_folder_or_below(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "fifo.yaml")
    write(tmp_path, PLAIN)
    (folder / "link.yaml").symlink_to(tmp_path / "spec.yaml")
    (folder / "far").symlink_to(tmp_path)
    found = report(folder, f'extends: "{name}"\n')
    assert ":1:" in found
    assert "extends" in found


def test_specs_that_extend_each_other_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "extends: c.yaml\n", "b.yaml")
    write(tmp_path, "extends: ./sub/../b.yaml\n", "c.yaml")
    assert "in a cycle" in report(tmp_path, "extends: b.yaml\n")
    assert "in a cycle" in report(tmp_path, "extends: spec.yaml\n")


@pytest.mark.parametrize(
    "path", ["https://host/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "/dev/zero"]
)
def test_a_url_or_a_device_is_rejected_as_an_image(path: str, tmp_path: Path) -> None:
    assert "visual_prompt.layers.0.path" in report(
        tmp_path, PLAIN + f'visual_prompt: {{layers: [{{type: image, path: "{path}"}}]}}\n'
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")  # opening it would wait forever
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("pipe.yaml", "folder.yaml", "zero.yaml", "loop.yaml", "a\0b.yaml", ""):
        with pytest.raises(SpecError):
            read_checked(tmp_path / name)
    assert "no such file: " in report(tmp_path, PLAIN + "visual_prompt: {layers: [{type: image, path: pipe.png}]}\n")
