"""`dp push`: what is uploaded to the hub, which a local server stands in for, and what is said if it refuses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_examples import finished
from found_images import dp
from huggingface_hub import HfApi, ModelCard, constants

from dualproc.errors import DualprocError, RunError
from dualproc.report import write_card
from dualproc.report.publish import missing, publish
from dualproc.run import RunFolder
from dualproc.types import Recipe


class Hub(BaseHTTPRequestHandler):
    """Answers like the hub to what an upload asks: make a repository, check a card, commit files."""

    refuses = 0
    created: dict[str, Any]
    files: dict[str, bytes]
    checked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refuses:
            return self._say(self.refuses, {"error": "You do not have the rights"})
        if self.path == "/api/repos/create":
            self.created |= json.loads(body)
            return self._say(200, {"url": f"http://{self.headers['Host']}/me/lora", "name": "me/lora"})
        if self.path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            self.checked.append(text)
            return self._say(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self._say(200, {"files": modes})
        if "/commit/" in self.path:
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    self.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            page = f"http://{self.headers['Host']}/me/lora/commit/0"
            return self._say(200, {"commitUrl": page, "commitOid": "0" * 40, "success": True})
        return self._say(404, {"error": f"unknown: {self.path}"})

    def do_GET(self) -> None:
        self._say(404, {"error": f"unknown: {self.path}"})

    def _say(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind = type("OurHub", (Hub,), {"created": {}, "files": {}, "checked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of a model from the hub, with files that must stay private."""
    found = RunFolder(finished(tmp_path / "thick"))
    (found.path / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    (found.path / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (found.path / "checkpoints" / "checkpoint-4" / "tensors.safetensors").write_bytes(b"moments")
    (found.path / "inputs").mkdir()
    (found.path / "inputs" / "face.png").write_bytes(b"private")
    (found.path / "sliders" / "row").mkdir(parents=True)
    (found.path / "sliders" / "row" / "pytorch_lora_weights.safetensors").write_bytes(b"slope")
    write_card(found, Recipe("black-forest-labs/FLUX.1-schnell", "bfloat16", library="diffusers", license="apache-2.0"))
    return found


def test_lora_card_and_samples_are_uploaded_and_nothing_private(
    capsys: pytest.CaptureFixture[str], hub: type[Hub], run: RunFolder
) -> None:
    code, out, err = dp(capsys, "push", run.path, "lora")
    assert code == 0, err
    assert out.strip().endswith("/me/lora")
    assert err.count("warning") == 1
    assert "its input files are not uploaded" in err
    assert hub.created["name"] == "lora"
    assert hub.created.get("private", hub.created.get("visibility")) in (True, "private")
    names = set(hub.files)
    assert {"README.md", "evaluation.json", "spec.resolved.yaml", "samples/before_after.png"} <= names
    assert hub.files["pytorch_lora_weights.safetensors"] == b"weights"
    assert hub.files["sliders/row/pytorch_lora_weights.safetensors"] == b"slope"
    private = ("checkpoints", "inputs", "env.json", "spec.yaml", ".lock", "outcome.json", "metrics")
    assert not [name for name in names if name.startswith(private)]


def test_a_run_of_a_model_in_an_absolute_folder_is_not_published(hub: type[Hub], run: RunFolder) -> None:
    text = (run.path / "spec.resolved.yaml").read_text()
    (run.path / "spec.resolved.yaml").write_text(f"{text}\ngenerator: {{type: diffusers, model: /home/ann/secret}}\n")
    with pytest.raises(RunError, match="names a folder of this machine, which would be published: /home/ann/secret"):
        publish(run, "me/lora", api=HfApi(endpoint=constants.ENDPOINT, token="hf_test"))
    assert hub.files == {}


@pytest.mark.parametrize("name", ["samples/more.png", "samples/more", "README.md", "evaluation.json",
                                  "comfyui_lora.safetensors", "sliders/row/adapter_config.json"])  # fmt: skip
def test_what_a_link_in_a_run_points_to_is_not_published(hub: type[Hub], run: RunFolder, name: str) -> None:
    secret = run.path.parent / "secret"
    if name == "samples/more":
        secret.mkdir()
    else:
        secret.write_bytes((run.path / name).read_bytes() if (run.path / name).exists() else b"secret")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(secret)
    with pytest.raises(RunError, match=f"{name} is a link, and what it points to would be published"):
        publish(run, "me/lora", api=HfApi(endpoint=constants.ENDPOINT, token="hf_test"))
    assert hub.files == {}


def test_uploaded_card_has_valid_metadata(hub: type[Hub], run: RunFolder) -> None:
    publish(run, "me/lora", api=HfApi(endpoint=constants.ENDPOINT, token="hf_test"))
    text = hub.files["README.md"].decode()
    assert hub.checked == [text]
    data = ModelCard(text).data
    assert data.base_model == "black-forest-labs/FLUX.1-schnell"
    assert data.license == "apache-2.0"
    assert data.library_name == "diffusers"
    assert {"lora", "text-to-image", "dualproc"} <= set(data.tags)
    assert [note for note in missing(run) if "model card" in note] == []


def test_public_is_asked_for(capsys: pytest.CaptureFixture[str], hub: type[Hub], run: RunFolder) -> None:
    assert dp(capsys, "push", run.path, "me/lora", "--public")[0] == 0
    assert hub.created.get("private", hub.created.get("visibility")) in (False, None, "public")
    assert (hub.created["name"], hub.created["organization"]) == ("lora", "me")


def test_card_without_base_model_or_license_is_warned_of(
    capsys: pytest.CaptureFixture[str], hub: type[Hub], run: RunFolder
) -> None:
    write_card(run, Recipe("/models/mine", "float32", library="diffusers"))
    code, _, err = dp(capsys, "push", run.path, "me/lora")
    assert code == 0
    assert "the model card has no `base_model`" in err
    assert "the model card has no `license`" in err
    assert yaml.safe_load(hub.files["README.md"].decode().split("---\n")[1])["library_name"] == "diffusers"


def test_refusals_are_one_message(capsys: pytest.CaptureFixture[str], hub: type[Hub], run: RunFolder) -> None:
    hub.refuses = 403
    code, _, err = dp(capsys, "push", run.path, "me/lora")
    assert code == 2
    assert "cannot upload to me/lora: " in err
    assert "hf auth login" in err
    assert "Traceback" not in err
    assert dp(capsys, "push", run.path, "not a name")[0] == 2
    (run.path / "README.md").write_text("no front matter")
    assert "has no valid front matter" in dp(capsys, "push", run.path, "me/lora")[2]


def test_unreachable_hub_and_unfinished_runs_are_one_message(
    capsys: pytest.CaptureFixture[str], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DualprocError, match="the hub cannot be reached"):
        publish(run, "me/lora", api=HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))
    (run.path / "pytorch_lora_weights.safetensors").unlink()
    code, _, err = dp(capsys, "push", run.path, "me/lora")
    assert code == 2
    assert "is not finished" in err


def test_a_run_that_is_written_is_not_uploaded_and_neither_is_what_a_killed_process_left(
    hub: type[Hub], run: RunFolder
) -> None:
    left = run.samples / ".aside-7-before_after.png"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half an image")
    with RunFolder(run.path).writing(), pytest.raises(RunError, match="in use by another run"):
        publish(run, "me/lora")
    assert not hub.files
    publish(run, "me/lora")
    assert hub.files
    assert not [name for name in hub.files if ".aside-" in name]
