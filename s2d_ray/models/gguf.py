"""Turn a GGUF file into a plain checkpoint: float32 safetensors, config and tokenizer.

Loads torch and transformers. `sources` runs it as a program whose arguments are those of `convert`.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from s2d_ray.errors import ModelError
from s2d_ray.models.cache import write_lineage

PACKAGES = ("gguf", "safetensors", "tokenizers", "torch", "transformers")


def convert(gguf_path: Path, out_dir: Path, source: str, sha256: str) -> None:
    """Write the model in `gguf_path`, dequantised to float32, to the folder `out_dir`.

    source, sha256: where the file came from and its hash, recorded in lineage.json.
    Raises ModelError if the file's end token does not end the turns of its own chat template.
    """
    metadata = _metadata(gguf_path)
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf_path.parent),
        "gguf_file": gguf_path.name,
        "local_files_only": True,
    }
    tokenizer = AutoTokenizer.from_pretrained(**where)
    eos = _check_tokens(gguf_path.name, tokenizer, metadata)
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)

    # The weights are dequantised, yet transformers still calls the model quantised and refuses
    # to save it.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config.name_or_path = ""
    model.config.eos_token_id = eos
    model.generation_config = GenerationConfig.from_dict(
        {
            "bos_token_id": model.config.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": model.config.pad_token_id,
        }
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    lineage = {
        "source": source,
        "gguf": gguf_path.name,
        "sha256": sha256,
        "packages": {name: version(name) for name in PACKAGES},
    }
    write_lineage(out_dir, lineage)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        fields = GGUFReader(path).fields
    except ValueError as error:
        raise ModelError(f"{path.name}: not a readable GGUF file: {error}") from None
    wanted = ("tokens", "eos_token_id", "eot_token_id")
    names = {name: f"tokenizer.ggml.{name}" for name in wanted}
    return {name: fields[key].contents() for name, key in names.items() if key in fields}


def _check_tokens(name: str, tokenizer: Any, metadata: dict[str, Any]) -> int | list[int]:
    """The end token, or tokens, as the file names them, proven on a rendered chat."""
    tokens, eos, eot = (metadata.get(key) for key in ("tokens", "eos_token_id", "eot_token_id"))
    if tokens is None or eos is None:
        raise ModelError(f"{name}: its metadata names no tokens or no end token")
    if tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) != tokens:
        raise ModelError(f"{name}: its tokenizer is of a kind that transformers does not read")
    ends = [eos] if eot is None or eot == eos else [eos, eot]
    tokenizer.eos_token = tokens[eos]
    if tokenizer.chat_template is not None:
        answer = "an answer"
        chat = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
        tail = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(answer)[2]
        if not any(tail.strip().startswith(tokens[end]) for end in ends):
            raise ModelError(
                f"{name}: its end token is {tokens[eos]!r}, but its chat template ends an "
                f"answer with {tail!r}"
            )
    return ends[0] if len(ends) == 1 else ends


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]), source=sys.argv[3], sha256=sys.argv[4])
    except ModelError as error:
        sys.exit(error.message)
