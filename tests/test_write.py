"""Questions and prompts written by a language model: checked, marked, from a judge or an endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from found_images import dp

from dualproc.engine import write
from dualproc.errors import DualprocError
from dualproc.spec import PluginRef

needs_client = pytest.mark.skipif(find_spec("openai") is None, reason="the extra `write` is not installed")
ANSWER = """Here they are:
```json
[{"question": "Is the sky behind {subject} orange?", "answer": "Yes"},
 {"question": "Is it day?", "answer": "No"},
 {"question": "Is {animal} red?", "answer": "Yes"},
 {"question": "", "answer": "Yes"},
 {"question": "Is it day?", "answer": "No"},
 {"question": "Is there a moon?", "answer": {"a": 1}}]
```"""


def says(answer: str, heard: list[str] | None = None) -> write.Writer:
    """A writer that gives one answer, and keeps what it was asked."""

    def ask(text: str) -> str:
        if heard is not None:
            heard.append(text)
        return answer

    return write.Writer("a model", ask)


def test_questions_are_checked_one_by_one_and_the_refused_ones_say_why() -> None:
    heard: list[str] = []
    found = write.write_questions("a cartoon of {subject}", says(ANSWER, heard), count=3)
    assert [(one.template, one.answer) for one in found.questions] == [
        ("Is the sky behind {subject} orange?", "Yes"),
        ("Is it day?", "No"),
    ]
    assert found.by == "a model"
    assert len(found.refused) == 4
    assert "the prompt has no field {animal}" in found.refused[0]
    assert "in the list twice" in found.refused[2]
    assert "a cartoon of {subject}" in heard[0]
    assert "Write 3 questions" in heard[0]


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "[1, 2", "[" * 5000, '{"question": "Is it day?"}', "[]"])
def test_answer_without_a_usable_list_is_an_error_that_shows_it(answer: str) -> None:
    with pytest.raises(DualprocError, match=r"wrote no (JSON list|question)"):
        write.write_questions("a red car", says(answer))


def test_prompts_that_are_known_or_have_braces_are_refused() -> None:
    answer = json.dumps(["a fox", "a cat", "an owl", "a {x}", "a fox", "a\nb", 3, " a moose "])
    found = write.write_prompts(["a cat", "a dog"], says(answer), taken=["an owl"])
    assert found.prompts == ("a fox", "a moose")
    assert len(found.refused) == 6


def test_instruction_of_a_file_replaces_the_shipped_one(tmp_path: Path) -> None:
    heard: list[str] = []
    file = tmp_path / "mine.txt"
    file.write_text("{count} about {prompt} as [1]")
    write.write_questions("a car", says('["Is it red?"]', heard), count=2, instruction=write.read_instruction(file))
    assert heard == ["2 about a car as [1]"]
    file.write_text(" ")
    for wrong in (file, tmp_path / "none.txt"):
        with pytest.raises(DualprocError, match=str(wrong)):
            write.read_instruction(wrong)


def test_shipped_judge_says_why_it_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert "can only answer Yes or No" in write.cannot_write(PluginRef(type="tiny"))
    assert write.cannot_write(PluginRef(type="qwen2.5-vl")) == ""
    code, _, err = dp(capsys, "write-questions", "a car", "--judge", "tiny")
    assert code == 2
    assert "can only answer Yes or No" in err


def test_judge_is_asked_about_a_grey_image() -> None:
    class Talker:
        """A judge that writes the shape of what it got."""

        def generate(self, images: Any, questions: list[str], *, max_new_tokens: int = 32) -> list[str]:
            return [json.dumps([f"Is it {images.shape[0]} grey image of {max_new_tokens}?"])]

    writer = write.judge_as_writer(PluginRef(type="qwen2.5-vl"), Talker())  # type: ignore[arg-type]
    found = write.write_questions("a car", writer)
    assert found.questions[0].template == "Is it 1 grey image of 1000?"
    assert found.by == "qwen2.5-vl"


@pytest.mark.parametrize("words", [(), ("--judge", "tiny", "--model", "x")])
def test_exactly_one_writer_is_expected(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = dp(capsys, "write-questions", "a car", *words)
    assert code == 2
    assert "expected one writer" in err


# --- an endpoint -------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Callable[[str, int], tuple[str, list[dict[str, Any]]]]]:
    """Starts a stand-in for an OpenAI-compatible endpoint; returns its address, and the requests that it gets."""
    started: list[HTTPServer] = []

    def start(content: str, status: int) -> tuple[str, list[dict[str, Any]]]:
        requests: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                requests.append({"path": self.path, "key": self.headers["authorization"], **body})
                message = {"role": "assistant", "content": content}
                reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                         "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
                data = json.dumps(reply if status == 200 else {"error": {"message": "no such model"}}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Nothing."""

        one = HTTPServer(("127.0.0.1", 0), Handler)
        started.append(one)
        threading.Thread(target=one.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{one.server_port}/v1", requests

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@needs_client
def test_command_writes_a_block_for_a_spec_with_an_endpoint(
    server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, requests = server(ANSWER, 200)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    code, out, err = dp(capsys, "write-questions", "a {subject}", "--model", "m", "--url", address, "-n", "2")
    assert code == 0
    assert yaml.safe_load(out)["question"][0] == {
        "template": "Is the sky behind {subject} orange?", "answer": "Yes",
    }  # fmt: skip
    assert out.startswith("# Written by m at 127.0.0.1. Ask them before you train: dp audit SPEC\n")
    assert err.count("refused: ") == 4
    assert "secret" not in out + err
    assert [(one["path"], one["key"], one["model"]) for one in requests] == [
        ("/v1/chat/completions", "Bearer secret", "m")
    ]


@needs_client
def test_endpoint_that_refuses_or_does_not_exist_is_one_message(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    address, _ = server("", 404)
    for url in (address, "http://127.0.0.1:9/v1"):
        with pytest.raises(DualprocError, match=r"m at 127\.0\.0\.1 did not answer"):
            write.write_questions("a car", write.endpoint("m", url=url))
    with pytest.raises(DualprocError, match="OPENAI_API_KEY is not set"):
        write.endpoint("m")


@pytest.mark.skipif(find_spec("openai") is not None, reason="the extra `write` is installed")
def test_missing_client_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(DualprocError) as error:
        write.endpoint("m")
    assert error.value.hint == "pip install 'dualproc[write]'"
