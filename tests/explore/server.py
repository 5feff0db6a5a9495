"""The explorer's server in a process of its own.

`python -m tests.explore.server LINES [PASSWORD_FILE [FOLDER [SECONDS]]]`: LINES is a file of texts
for the autoencoder of letters, or the workdir of a trained one; FOLDER is where maps are kept, and
SECONDS what each decoding takes at least.
"""

import sys
import time
from pathlib import Path

from flaxae.explore.backend import Explorer
from flaxae.explore.serve import serve
from tests.explore.tiny import Letters


def explorer_of(source: str, folder: str = "") -> Explorer:
    if Path(source).is_dir():
        return Explorer.open(source, most=2000)
    lines = Path(source).read_text().split("\n")
    return Explorer(Letters(), lines, folder=Path(folder) if folder else None)


if __name__ == "__main__":
    source, password, folder, seconds = (*sys.argv[1:], "", "", "")[:4]
    made = explorer_of(source, folder)
    if seconds:
        decode = made.model.decode
        made.model.decode = lambda z: (time.sleep(float(seconds)), decode(z))[1]
    serve(made, password_file=password, ready=lambda url: print(url, flush=True))
