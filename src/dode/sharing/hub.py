"""Folders with a card, put on the Hugging Face Hub by huggingface_hub."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dode.foreign import first_line, printable
from dode.held import CARD, OF_NETWORK, OF_PIPELINE, is_scheduler, read_held

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What a folder that came from the Hub has beside its files; it is not put there again.
_OF_HUB = (".cache", ".git", ".gitattributes")
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
# Connections that are not made or not kept are errors of the libraries beneath.
_BENEATH = ("httpx", "httpcore", "requests", "urllib3")


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str = "Tableaux of dode",
    create_pr: bool = False,
    api: HfApi | None = None,
) -> str:
    """Put a folder of `save_folder`, `save_scheduler` or `dode distill` on the Hub, as a model repository.

    `huggingface_hub.snapshot_download(repo_id)` gives such a folder back, for `TableauSet.load`, `DodeScheduler.from_pretrained` or
    `dode sample`: dode itself downloads nothing.

    Args:
        folder: it is read and checked first. Files of ours that a former one had and this one has not go.
        repo_id: "name" or "organisation/name"; made where it is not there, unless with `create_pr`.
        token: of the Hub; what `hf auth login` or HF_TOKEN left if None.
        private: of a repository that is made; the account's default if None.
        commit_message: a line.
        create_pr: open a pull request in place of a commit.
        api: a client of one's own, for example `HfApi(endpoint=...)`; then `token` is its affair where None.

    Returns:
        The address of the repository, or of the pull request.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: a folder without tableaux or card.
        ValueError: damaged tableaux, other files than a saved folder has, or a name that the Hub does not allow.
        PermissionError: no token, or one that may not write there.
        ConnectionError: the Hub is not reached, or the library is set offline.
        OSError: what else the Hub answers.
    """
    where = Path(folder)
    names = _check(where)
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("sharing on the Hub needs huggingface_hub: pip install dode[hub]", name="huggingface_hub") from error
    if api is None:
        if token is None and huggingface_hub.get_token() is None:
            raise PermissionError(f"there is no token of the Hub: {_LOGIN}, or give token=...")
        api = huggingface_hub.HfApi(library_name="dode")
    try:
        whole = (
            f"{api.endpoint}/{repo_id}" if create_pr else api.create_repo(repo_id, token=token, private=private, exist_ok=True)
        )
        made = api.upload_folder(
            repo_id=getattr(whole, "repo_id", repo_id),  # with the account's own name
            folder_path=where,
            token=token,
            commit_message=commit_message,
            allow_patterns=list(names),
            delete_patterns=list(names),
            create_pr=create_pr,
        )
    except Exception as error:
        raise _told(error, repo_id) from error
    # Nothing that differs opens no pull request.
    return str(made.pr_url or whole)


def _check(folder: Path) -> Sequence[str]:
    """See that a folder is one to share; patterns of its files."""
    read_held(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is a file: write a folder with a card (dode.sharing.save_folder, dode distill --out FOLDER)"
        )
    if not (folder / CARD).is_file():
        raise FileNotFoundError(
            f"{folder} has no card, {CARD}: write it with dode.sharing.save_folder or `dode distill --out FOLDER`"
        )
    names = OF_PIPELINE if is_scheduler(folder) else OF_NETWORK
    for child in sorted(folder.iterdir()):
        ours = child.is_file() and any(fnmatch(child.name, name) for name in names)
        if not ours and child.name not in _OF_HUB:
            raise ValueError(f"{folder} has other things than a saved folder, such as {printable(child.name)}: move them away")
    return names


def _told(error: Exception, repo_id: str) -> Exception:
    """What went wrong on the way to the Hub, in a line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    name = printable(repo_id)
    if isinstance(error, HFValidationError):
        return ValueError(f"{name} is no name of a repository: {printable(error)}")
    if isinstance(error, LocalTokenNotFoundError):
        return PermissionError(f"there is no token of the Hub: {_LOGIN}")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError("huggingface_hub is set offline (HF_HUB_OFFLINE): nothing can be put on the Hub")
    if isinstance(error, HfHubHTTPError):
        status: Any = getattr(error.response, "status_code", None)
        said = printable(getattr(error, "server_message", None) or f"HTTP status {status}")
        if status in (401, 403):
            return PermissionError(f"the Hub does not let this token write to {name} ({said}): {_LOGIN}")
        if status == 404:
            return FileNotFoundError(f"the Hub has no repository {name} that this token may see")
        return OSError(f"the Hub did not take {name}: {said}")
    if isinstance(error, ConnectionError) or type(error).__module__.startswith(_BENEATH):
        return ConnectionError(f"the Hub is not reached: {first_line(error)}")
    return error
