"""The spec, a task declared in one file: its models, loading with located mistakes, and the JSON schema."""

from __future__ import annotations

from .loading import LoadedSpec, read_spec, spec_from_dict
from .messages import problems_from
from .models import EvaluationSpec, Jitter, Lora, Preview, Stop, TaskSpec, Train, VisualPromptSpec, Watch
from .paths import named_files, named_models, with_files
from .prompts import Prompts, QuestionSpec, questions_in
from .refs import AnchorRef, MemberRef, PluginPlace, PluginRef
from .schema import json_schema
from .shipped import locate, shipped_specs
from .sliders import Slider
from .writing import to_yaml

__all__ = [
    "AnchorRef", "EvaluationSpec", "Jitter", "LoadedSpec", "Lora", "MemberRef", "PluginPlace", "PluginRef", "Preview",
    "Prompts", "QuestionSpec", "Slider", "Stop", "TaskSpec", "Train", "VisualPromptSpec", "Watch", "json_schema",
    "locate", "named_files", "named_models", "problems_from", "questions_in", "read_spec", "shipped_specs",
    "spec_from_dict", "to_yaml", "with_files",
]  # fmt: skip
