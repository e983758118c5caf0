"""Turn a GGUF file into a folder that transformers and vLLM load: `gguf_to_hf.py FILE.gguf FOLDER`.

`save_pretrained` refuses a model that came out of a GGUF file, so its weights go into a fresh one. The folder
appears when it is complete.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**place)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    begun = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        fresh.to(torch.bfloat16).save_pretrained(begun)
        AutoTokenizer.from_pretrained(**place).save_pretrained(begun)
        begun.rename(folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: gguf_to_hf.py FILE.gguf FOLDER   (FILE.gguf must exist; FOLDER is made)")
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
