"""Repairs of this process's environment, where the machine or the user's settings would break a library.

One place for all of them, called before the libraries are imported.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from rwsa.errors import InputError
from rwsa.process import THREAD_VARIABLES

# What libraries write below HOME: variable, and folder in a cache.
_CACHES = {
    "XDG_CACHE_HOME": ".",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_OPEN_FILES = 65_536
_REMEDIES = {
    errno.ENOSPC: "no space left on the device; free some, or set another folder (temporary files: TMPDIR)",
    errno.EDQUOT: "your quota is exhausted; free space, or set another folder (temporary files: TMPDIR)",
    errno.EMFILE: "too many open files; raise the limit with 'ulimit -n 65536'",
    errno.ENFILE: "the machine has too many open files; end other programs",
    errno.ENOMEM: "out of memory; use fewer workers, or raise the limit ('ulimit -v', or the job's memory)",
    errno.EAGAIN: "no more processes or threads; raise the limit with 'ulimit -u', or use fewer workers",
    errno.EROFS: "the file system is read-only; write to another folder",
    errno.EACCES: "permission denied; check the permissions of the file and of the folders above it",
    errno.ENAMETOOLONG: "the name is too long for the file system; shorten it",
    errno.EIO: "the disk or network folder fails (input/output error); try again, or use another",
    errno.ESTALE: "the network folder has changed on its server; mount it again",
}


def repair_environment() -> None:
    """Repair the environment variables and limits of this process and of those that it starts.

    Prints a line for each setting of the user that is replaced.
    """
    # Figures are drawn without a backend; a notebook's may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    _repair_thread_counts()
    _repair_temporary_folder()
    _repair_user()
    _repair_home()
    _raise_open_files()


def private_folder(*, longest: int | None = None) -> Path:
    """A folder of this user for temporary files and caches, mode 0700; the same at every call.

    Args:
        longest: of its path, in bytes; default: no limit.

    Raises:
        InputError: there is no writable folder for it.
    """
    for parent in dict.fromkeys((tempfile.gettempdir(), *_SHORT_FOLDERS)):
        folder = Path(parent) / f"rwsa-{os.getuid()}"
        if longest is not None and len(os.fsencode(folder)) > longest:
            continue
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            # Another user may have created it to read or replace what is written there.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                folder.chmod(0o700)
                if is_writable(folder):
                    return folder
    raise InputError(
        "no writable folder for temporary files: tried TMPDIR, /tmp, /var/tmp and /dev/shm; set TMPDIR to one"
    )


def is_writable(folder: Path) -> bool:
    """Whether a file can be created in a folder; permission bits do not show a read-only file system."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def remedy(error: BaseException) -> str | None:
    """One line for an error of the machine's limits, permissions or disks; None for any other."""
    if isinstance(error, MemoryError):
        return _REMEDIES[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{_REMEDIES[error.errno]}"
    return None


def _repair_thread_counts() -> None:
    for name in THREAD_VARIABLES:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", value):
            del os.environ[name]
            _say(f"{name} is '{value:.40}', not a number of threads; ignored")


def _repair_temporary_folder() -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        folder = os.environ.get(name)
        if folder is not None and not (Path(folder).is_absolute() and is_writable(Path(folder))):
            del os.environ[name]
            tempfile.tempdir = None
            _say(f"{name} {folder!r} is not a writable folder; ignored")


def _repair_user() -> None:
    """Give a user id without an account, as containers have, a name: `getpass.getuser` fails otherwise."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["USER"] = os.environ["LOGNAME"] = f"uid{os.getuid()}"


def _repair_home() -> None:
    """Where HOME is missing or read-only, let libraries keep their caches in a private folder."""
    home = os.environ.get("HOME")
    if home is None:
        with suppress(RuntimeError):
            home = str(Path.home())
    if home is not None and home != "/" and Path(home).is_dir() and is_writable(Path(home)):
        return
    folder = private_folder()
    if home is None or not Path(home).is_dir():
        os.environ["HOME"] = str(folder)
    for name, cache in _CACHES.items():
        os.environ.setdefault(name, str(folder / "cache" / cache))


def _raise_open_files() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
