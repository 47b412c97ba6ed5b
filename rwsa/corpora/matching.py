"""Regular expressions of cards, matched in a process that is killed if it takes too long.

Python's `re` can take years for a short expression such as `(a+)+$`, and a thread cannot interrupt it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from rwsa.errors import InputError

MAX_CHARACTERS = 1000
SECONDS = 10.0
_SECONDS_PER_FILE = 0.0002
Labels = dict[str, str | None]

_PROGRAM = """
import json, re, sys
pattern, excluded, files = json.load(sys.stdin)
pattern, excluded = re.compile(pattern), [re.compile(each) for each in excluded]
found = []
for file in files:
    if any(each.search(file) for each in excluded):
        found.append(None)
    else:
        match = pattern.fullmatch(file)
        found.append(match.groupdict() if match else False)
json.dump(found, sys.stdout)
"""


def match_files(
    pattern: str, excluded: Sequence[str], files: Sequence[str]
) -> tuple[list[str], list[tuple[str, Labels]]]:
    """The files that no `excluded` expression matches in part, and those of them that match `pattern`.

    Args:
        pattern: a valid regular expression.
        excluded: valid regular expressions.
        files: paths with `/`.

    Returns:
        kept: the files that are not excluded.
        matched: the files that match, with the named groups of the match.

    Raises:
        InputError: matching takes more than `SECONDS` and a fifth of a millisecond per file.
    """
    if not files:
        return [], []
    limit = SECONDS + _SECONDS_PER_FILE * len(files)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([pattern, list(excluded), list(files)]).encode("ascii"),
            capture_output=True,
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired:
        also = f" (exclude: {', '.join(excluded)})" if excluded else ""
        raise InputError(
            f"'{pattern}'{also} takes more than {limit:.0f} s to match {len(files)} file names; write it"
            " without repetitions in repetitions such as (a+)+"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"'{pattern}' cannot be matched ({reason or error})") from None
    found = list(zip(files, json.loads(done.stdout), strict=True))
    kept = [file for file, labels in found if labels is not None]
    return kept, [(file, labels) for file, labels in found if isinstance(labels, dict)]
