"""The parts of `dp plan`: a training step without weights, its memory and operations, and settings that need less.

| module | what it holds |
| --- | --- |
| `dry_run` | the plan of a spec: parts, memory and operations, from one step of the engine on models without weights |
| `switches` | settings that save memory, and the search for those that make a spec fit |
| `meta_models` | models built from their configurations alone |
| `meta_tensors` | tensors without data: shapes are computed, values are not |
| `ledger` | which tensors are alive on which device, and what is computed |
| `hardware` | how fast devices compute |
"""
