"""The explorer's server in a process of its own: `python -m tests.explore.server LINES [options]`.

LINES is a file of texts for the autoencoder of letters, or the workdir of a trained one.
"""

import sys
from pathlib import Path

from flaxae.explore.backend import Explorer
from flaxae.explore.serve import serve
from tests.explore.tiny import Letters


def explorer_of(source: str) -> Explorer:
    if Path(source).is_dir():
        return Explorer.open(source, most=2000)
    return Explorer(Letters(), Path(source).read_text().split("\n"))


if __name__ == "__main__":
    password = sys.argv[2] if len(sys.argv) > 2 else ""
    serve(
        explorer_of(sys.argv[1]), password_file=password, ready=lambda url: print(url, flush=True)
    )
