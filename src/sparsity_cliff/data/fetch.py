"""Resumable downloads. A file gets its name only after it was checked."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj

from sparsity_cliff.data.errors import DataError

ATTEMPTS, PAUSE, TIMEOUT = 6, 2.0, 60.0  # pause (doubled per attempt) and timeout in seconds


def fetch(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Download a file to `path`. Until it is complete and checked, it is a .part file that a later call resumes.

    check: raises DataError if a file is not the expected one. Raises DataError, which names the file, if the download
    or the check fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, problem = path.with_name(f"{path.name}.part"), ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            _download(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"HTTP {error.code}: {error.reason}"
            if error.code < 500 and error.code not in (408, 429):  # a retry gives the same answer
                break
        except (OSError, HTTPException) as error:
            problem = str(error) or type(error).__name__
        else:
            try:
                check(part)
            except DataError as error:
                part.unlink()
                raise DataError(f"{path}: {url} sent an unexpected file ({error})") from error
            part.rename(path)
            print(f"{path}: fetched, {path.stat().st_size} bytes", flush=True)
            return
    raise DataError(f"{path}: cannot be fetched from {url} ({problem}); run again to resume, or put the file there")


def _download(url: str, part: Path) -> None:
    """Download the rest of `part`. Raises OSError if the server sends less, or another part."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        part.unlink()  # as long as the whole file, or longer, and therefore damaged
        raise ConnectionError(f"no bytes after the first {have}") from error
    with response:
        rest = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if rest and int(rest[1]) != have:
            raise ConnectionError(f"the server sent bytes from {rest[1]} on instead of from {have} on")
        total = int(rest[2]) if rest else int(response.headers.get("Content-Length", 0))
        with open(part, "ab" if rest else "wb") as file:  # some servers send only whole files
            copyfileobj(response, file, 1 << 20)
    size = part.stat().st_size
    if size < total:
        raise ConnectionError(f"cut off after {size} of {total} bytes")
