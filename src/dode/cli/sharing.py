"""The command `share`: a saved folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dode.cli.screen import console


def share(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder with a card, from `dode distill`.", show_default=False)
    ],
    repository: Annotated[
        str,
        typer.Argument(metavar="REPOSITORY", help="NAME or ORGANISATION/NAME; made if it is not there.", show_default=False),
    ],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made; the account's default.")
    ] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Tableaux of dode",
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request in place of a commit.")] = False,
) -> None:
    """Put a saved folder on the Hugging Face Hub.

    With the login of `hf auth login`, or the token in HF_TOKEN. It needs huggingface_hub: pip install dode[hub].

    For example: dode share fashion-deis someone/fashion-deis
    """
    from dode.sharing import push_to_hub

    address = push_to_hub(folder, repository, private=private, commit_message=message, create_pr=pull_request)
    console.print(f"shared {folder}: {address}", highlight=False, soft_wrap=True)
