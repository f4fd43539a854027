"""What a run has made is uploaded to Hugging Face's hub, where the command asks for it.

A recipe has no field for this: one that is handed on uploads nothing to the next one's account.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from lidit_core.errors import LiDiTError, check, first_line

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name


def check_upload(repository: str) -> None:
    """Try, before a run, whether its file can be uploaded; a repository that is new is made.

    Args:
        repository: ``owner/name``; a new one is private.
    Raises:
        LiDiTError: it is no such name, the package is missing, or the hub refuses.
    """
    check(
        bool(NAME.fullmatch(repository)),
        f"--upload {repository} names no repository; expected OWNER/NAME",
    )
    check(
        find_spec("huggingface_hub") is not None,
        "--upload needs huggingface_hub, which is not installed; pip install huggingface_hub",
    )
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
    except Exception as error:  # of requests or httpx, by the package's version
        raise LiDiTError(
            f"the hub has no repository {repository} to upload to ({first_line(error)}); expected "
            "one that HF_TOKEN, or the token of `hf auth login`, may write to"
        ) from error


def upload(file: Path, repository: str) -> str:
    """Upload a file under its own name, and give its address.

    Raises:
        LiDiTError: it could not be uploaded; the file stays where it is.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id=repository)
    except Exception as error:  # as above
        raise LiDiTError(
            f"{file} is written, and was not uploaded to {repository} ({first_line(error)}); the "
            "same command again uploads it"
        ) from error
    return f"{api.endpoint}/{repository}/blob/main/{file.name}"
