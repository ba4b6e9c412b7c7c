"""A model of the Hugging Face hub: its safetensors, configs and tokenizer, of one commit.

Nothing else is downloaded and no code of a repository is run. A token for gated or private models
is read from HF_TOKEN alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from s2d_ray.errors import ModelError
from s2d_ray.models.cache import WEIGHTS, WEIGHTS_INDEX, Report, write_lineage

WANTED = ("model*.safetensors", "*.json", "*.jinja")
"""Files at the top of a repository; others hold the same weights in other formats."""


def download(repo: str, revision: str | None, work: Path, report: Report) -> Path:
    """Fetch the newest commit of a branch, a tag or a commit; -> a checkpoint within `work`.

    What an interrupted try has fetched of that commit is kept and used.
    Raises ModelError in one line that names the model and what to do.
    """
    from huggingface_hub import constants, errors

    source = f"hub:{repo}" + (f"@{revision}" if revision else "")
    beforehand = f"fetch it beforehand with `s2d models pull {source}`, or name a local folder"
    if constants.is_offline_mode():
        raise ModelError(f"{source}: not in the cache, and HF_HUB_OFFLINE is set; {beforehand}")
    try:
        return _download(source, repo, revision, work, report)
    except errors.GatedRepoError:
        what = "gated: accept its terms on the hub and set HF_TOKEN to a token of yours"
    except errors.RepositoryNotFoundError:
        what = "the hub has no such model, or it is private: set HF_TOKEN to one that may read it"
    except errors.RevisionNotFoundError:
        what = f"the hub's model has no revision {revision!r}"
    except errors.HfHubHTTPError as error:
        what = f"the hub answered {error.response.status_code}; try again, {beforehand}"
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        what = f"the hub cannot be reached ({_reason(error)}); {beforehand}"
    except (ModelError, OSError):
        raise
    except Exception as error:  # an error of the HTTP client, which is the library's own choice
        what = f"the hub cannot be reached ({_reason(error)}); {beforehand}"
    raise ModelError(f"{source}: {what}")


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _download(source: str, repo: str, revision: str | None, work: Path, report: Report) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    token = os.environ.get("HF_TOKEN") or False  # False: nor one that lies in a file
    info = HfApi(token=token).model_info(repo, revision=revision)
    names = {file.rfilename for file in info.siblings or ()}
    for wanted in (("config.json",), ("tokenizer.json",), (WEIGHTS, WEIGHTS_INDEX)):
        if not names.intersection(wanted):
            hint = "; only safetensors weights are loaded" if WEIGHTS in wanted else ""
            raise ModelError(f"{source}: has no {wanted[0]}{hint}")
    commit = str(info.sha)
    report(f"{source}: downloading commit {commit}")
    checkpoint = work / commit
    snapshot_download(
        repo,
        revision=commit,
        local_dir=checkpoint,
        token=token,
        allow_patterns=list(WANTED),
        ignore_patterns=["*/*"],
    )
    shutil.rmtree(checkpoint / ".cache", ignore_errors=True)  # notes for the next try
    write_lineage(checkpoint, {"source": f"hub:{repo}@{commit}", "commit": commit})
    return checkpoint
