"""vLLM as a writer of texts, run by the Python it is installed for: orders in, texts out.

One line of JSON each way. Imports nothing of this package, which that Python does not have.
Usage: vllm_writer.py FOLDER LONGEST_TEXT MOST_AT_ONCE
"""

from __future__ import annotations

import json
import os
import sys

CACHE_BYTES = 2**30


def main(folder: str, longest: int, most: int) -> None:
    """Load the checkpoint, say vLLM's version, then write what each line of stdin orders.

    An order has `groups`, lists of prompts of ids that are written at once, and `num_tokens`; its
    answer is the list of all texts as ids.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints, line by line: an error must come last
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import vllm

    model = vllm.LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        generation_config="vllm",
        kv_cache_memory_bytes=CACHE_BYTES,
        max_model_len=longest,
        max_num_seqs=most,
    )
    print(json.dumps(vllm.__version__), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=order["num_tokens"], ignore_eos=True, detokenize=False
        )
        texts = []
        for group in order["groups"]:
            prompts = [{"prompt_token_ids": ids} for ids in group]
            written = model.generate(prompts, sampling, use_tqdm=False)
            texts += [list(each.outputs[0].token_ids) for each in written]
        print(json.dumps(texts), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
