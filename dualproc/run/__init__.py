"""What a fit leaves behind: the run folder, and what is written to it and read from it."""

from .checkpoints import Checkpoint
from .environment import environment, peak_gpu_memory, peak_memory, reset_peak_gpu_memory
from .folder import RunFolder
from .images import write_images
from .inputs import opened, portable
from .records import Outcome

__all__ = [
    "Checkpoint", "Outcome", "RunFolder", "environment", "opened", "peak_gpu_memory", "peak_memory", "portable",
    "reset_peak_gpu_memory", "write_images",
]  # fmt: skip
