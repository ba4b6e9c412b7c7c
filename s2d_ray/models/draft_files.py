"""The sorted draft on disk: draft.json, draft.safetensors, config.json.

The card is read without torch.
`ensure_draft` gives the folder of the configured draft and cuts it from its base model once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from s2d_ray.config import DraftConfig, Precision
from s2d_ray.errors import ModelError
from s2d_ray.models import cache, sources, text
from s2d_ray.models.lineage import hash_of_file

if TYPE_CHECKING:
    import torch

    from s2d_ray.models.sorted_draft import DraftNetwork, SortedDraft

FORMAT = 2
"""Format 1 had neither `own_heads` nor `block_size`, and one tensor `head.weight`."""

SHIPPED = "shipped"
"""`draft.checkpoint: "shipped:NAME"` names a draft in this package's own folder of drafts."""

CHANGES = "changes.safetensors"
"""The tensors of a packed draft."""


@dataclass(frozen=True)
class DraftCard:
    """What a draft is and where it comes from; the content of draft.json.

    tokenizer: fingerprint of the vocabulary; a target must have the same one.
    head_size: ids its exits can propose; the id map is the tensor `head_ids`.
    layers: which of the base's were kept; empty: the first ones.
    own_heads, block_size: see `exits.Exits`.
    packed: whether the folder holds changes to the base's weights only; see `packed_draft.py`.
    trained_tokens: 0 for a draft that was only cut.
    """

    base: str
    exit_layers: tuple[int, ...]
    head_size: int
    tokenizer: str
    eos_token_ids: tuple[int, ...]
    layers: tuple[int, ...] = ()
    own_heads: bool = False
    block_size: int = 0
    packed: bool = False
    trained_tokens: int = 0
    format: int = FORMAT
    lineage: dict[str, str] = field(default_factory=dict)


def read_card(folder: Path) -> DraftCard:
    """draft.json of a saved draft. Raises ModelError if it is missing, damaged or too new."""
    path = folder / "draft.json"
    try:
        fields = json.loads(path.read_text())
        _check_format(fields.get("format", FORMAT), path)
        for name in ("exit_layers", "eos_token_ids", "layers"):
            if name in fields:
                fields[name] = tuple(fields[name])
        card = DraftCard(**fields)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: not a draft card: {error}") from None
    return card


def _check_format(found: object, path: Path) -> None:
    """Raise ModelError for a format that is not read; first of all, since it names the fields."""
    if found not in (1, FORMAT):
        raise ModelError(
            f"{path}: format {found} is not read here, only 1 to {FORMAT}; "
            "update s2d-ray, or cut or train the draft again"
        )


def read(folder: Path) -> tuple[DraftCard, SortedDraft]:
    """A saved draft as it was written. Raises ModelError if a file is missing, wrong or refused."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from s2d_ray.models.exits import Exits
    from s2d_ray.models.loading import read_config
    from s2d_ray.models.sorted_draft import SortedDraft

    card = read_card(folder)
    try:
        tensors = load_file(folder / "draft.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}/draft.safetensors: cannot be read: {error}") from None
    if card.format == 1 and "head.weight" in tensors:
        tensors["heads.0.weight"] = tensors.pop("head.weight")
    exits = Exits(card.exit_layers, card.head_size, card.own_heads, card.block_size)
    draft = SortedDraft(read_config(folder), exits)
    try:
        draft.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder}: draft.safetensors does not fit draft.json: {reason}") from None
    return card, draft


def load_network(
    folder: Path, precision: Precision, device: torch.device, cache_tokens: int
) -> DraftNetwork:
    """A saved draft, ready to run. Raises ModelError like `read`, or if its family is refused."""
    from s2d_ray.models.linear import replace_linears
    from s2d_ray.models.loading import cast_parameters, compute_dtype, linear_kind
    from s2d_ray.models.sorted_draft import DraftNetwork, staged_equals_whole

    _, draft = read(folder)
    draft = draft.to(device).eval().requires_grad_(False)
    cast_parameters(draft, compute_dtype(precision))
    kind = linear_kind(precision, device)
    if kind == "int4":  # four bits cost a head more guesses than they save time
        replace_linears(draft.heads, "int8")
    replace_linears(draft, kind)
    draft.split()
    network = DraftNetwork(draft, cache_tokens)
    if not staged_equals_whole(network):
        raise ModelError(f"{folder}: this family's layers cannot be run in groups")
    return network


def write(folder: Path, card: DraftCard, draft: SortedDraft) -> None:
    """Save a draft; the card comes last, so a folder with a card is whole."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draft.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in draft.state_dict().items()}
    save_file(tensors, folder / "draft.safetensors")
    write_card(folder, card)


def write_card(folder: Path, card: DraftCard) -> None:
    """Write draft.json."""
    (folder / "draft.json").write_text(json.dumps(asdict(card), indent=2) + "\n")


def draft_folder(config: DraftConfig) -> Path:
    """Where the configured draft lies or will lie; a packed one lies there packed."""
    if config.checkpoint is not None:
        scheme, _, name = config.checkpoint.partition(":")
        return _shipped(name) if scheme == SHIPPED else Path(config.checkpoint).expanduser()
    base = config.base
    assert base is not None, "a draft has a checkpoint or a base"
    shape = [config.exit_layers, config.head_size]
    return _cached(json.dumps([FORMAT, base, sources.stamp(base), *shape]))


def base_of(config: DraftConfig) -> str:
    """Source of the model that the configured draft was cut from."""
    return config.base or read_card(draft_folder(config)).base


@dataclass(frozen=True)
class DraftShape:
    """Which layers of its base a draft has, and which exits; in the words of `s2d train`."""

    layers: str
    exits: tuple[int, ...]
    head_size: int


def shape_of(config: DraftConfig) -> DraftShape:
    """The shape of the configured draft. Raises ModelError as `read_card`."""
    if config.base is not None:
        exits, head_size = config.exit_layers, config.head_size
        layers: tuple[int, ...] = ()
    else:
        card = read_card(draft_folder(config))
        exits, head_size, layers = card.exit_layers, card.head_size, card.layers
    first = tuple(range(exits[-1]))
    kept = ",".join(map(str, layers)) if layers not in ((), first) else f"first:{exits[-1]}"
    return DraftShape(kept, exits, head_size)


def _shipped(name: str) -> Path:
    """A draft that comes with this package. Raises ModelError naming those there are."""
    drafts = Path(__file__).resolve().parent.parent / "drafts"
    names = sorted(card.parent.name for card in drafts.glob("*/draft.json"))
    if name not in names:
        raise ModelError(
            f"draft.checkpoint: no draft {name!r} is shipped; there are {', '.join(names)}"
        )
    return drafts / name


def ensure_draft(config: DraftConfig, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of the configured draft, ready to be read.

    If it is not there yet, it is cut from the base model or unpacked, and saved in the cache.
    """
    folder = draft_folder(config)
    if config.base is not None:
        base = config.base
        report_line = f"cutting the draft (exits {config.exit_layers}) from {base}"
        return _build_once(
            folder, lambda work: _cut_into(work, config, base, report), report_line, report
        )
    card = read_card(folder)
    if not card.packed:
        return folder

    def unpack_into(work: Path) -> None:
        from s2d_ray.models.packed_draft import unpack

        unpack(folder, card, work, report)

    try:
        content = json.dumps(asdict(card)) + hash_of_file(folder / CHANGES)
    except OSError as error:
        raise ModelError(f"{folder / CHANGES}: cannot be read: {error.strerror}") from None
    return _build_once(_cached(content), unpack_into, f"unpacking the draft in {folder}", report)


def _cached(content: str) -> Path:
    """The cache's folder for a draft that depends on `content` alone."""
    return cache.cache_dir().parent / "drafts" / hashlib.sha256(content.encode()).hexdigest()[:16]


def _build_once(
    folder: Path, build: Callable[[Path], None], line: str, report: Callable[[str], None]
) -> Path:
    """Have a whole draft in `folder`, which only one process at a time works on."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "draft.json").exists():
            report(line)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            build(partial)
            os.replace(partial, folder)
    return folder


def _cut_into(
    folder: Path, config: DraftConfig, source: str, report: Callable[[str], None]
) -> None:
    import torch

    from s2d_ray.models.loading import load_decoder
    from s2d_ray.models.sorted_draft import cut_draft

    base_folder = sources.resolve(source, report=report)
    tokenizer = text.Text(base_folder)
    card = DraftCard(
        base=source,
        exit_layers=config.exit_layers,
        head_size=config.head_size,
        tokenizer=tokenizer.fingerprint,
        eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
        lineage={"made_by": "cut", "torch": torch.__version__},
    )
    base = load_decoder(base_folder, torch.float32, torch.device("cpu"))
    head_ids = trimmed_ids(base_folder, config.head_size)
    write(folder, card, cut_draft(base, head_ids, config.exit_layers))


def trimmed_ids(folder: Path, head_size: int, counts: Mapping[int, int] | None = None) -> list[int]:
    """The ids an exit head scores: specials, single characters and bytes, then the common ones.

    counts: how often the ids were seen in a text. Where they do not tell, the lowest ids count as
    the common ones: byte-pair merges are numbered by frequency.
    Raises ModelError if `head_size` exceeds the vocabulary.
    """
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    if head_size > len(vocabulary):
        raise ModelError(f"draft.head_size: {head_size} is more than {len(vocabulary)} tokens")
    seen = counts or {}
    always = set(tokenizer.get_added_tokens_decoder())
    always |= {
        token_id
        for token, token_id in vocabulary.items()
        if len(token) == 1 or text.BYTE_TOKEN.fullmatch(token)
    }
    rest = sorted(set(vocabulary.values()) - always, key=lambda each: (-seen.get(each, 0), each))
    return sorted([*always, *rest[: max(0, head_size - len(always))]])[:head_size]
