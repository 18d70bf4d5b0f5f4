"""What any plugin may use, built in or not. Public: its functions stay while `API_VERSION` does.

| module | what it has |
| --- | --- |
| `adapters` | switch a module's LoRA off for a while |
| `blocks` | the repeated blocks of a model; compile them |
| `canvas` | parameter types of visual prompts; exact, blended shapes and text |
| `colors` | CIELAB, CIEDE2000, the dominant colours of an image, shades by name |
| `devices` | the parameter type of a device, and which device it names |
| `eight_bits` | frozen 8-bit layers of bitsandbytes |
| `files` | read files that anybody may have written |
| `hub` | why a model of the hub cannot be loaded, and what to do |
| `image_files` | image files as tensors |
| `ink` | outlines, as what is dark and narrow |
| `model_files` | check the files of a model before libraries read them |
| `model_params` | parameters of a plugin that loads a generator or judge |
| `offload` | frozen weights in main memory, on the device while they are used |
| `patching` | change attributes of other libraries for a while |
| `pretrained` | pretrained models that measure images: parameters, loading, running in small batches |
| `regions` | an image split into sky, ground and drawing |
| `structure` | blur, downscaling, and how alike the layouts of two images are |
| `weights` | load models without running code that comes with them; bitsandbytes; freeze a model |
"""
