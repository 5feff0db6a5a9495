"""The explorer's server in a separate process.

`python -m tests.explore.server LINES [PASSWORD_FILE [FOLDER [SECONDS]]]`: LINES is a file of texts
for the autoencoder of letters, or the workdir of a trained run; FOLDER is the folder of cached
maps, and SECONDS the minimum duration of a decoding.
"""

import sys
import time
from pathlib import Path

from flaxae.explore.backend import Explorer
from flaxae.explore.server import serve
from tests.explore.tiny import Letters


def open_explorer(source: str, folder: str = "") -> Explorer:
    if Path(source).is_dir():
        return Explorer.open(source, most=2000)
    lines = Path(source).read_text().split("\n")
    return Explorer(Letters(), lines, folder=Path(folder) if folder else None)


if __name__ == "__main__":
    source, password, folder, seconds = (*sys.argv[1:], "", "", "")[:4]
    made = open_explorer(source, folder)
    if seconds:
        decode = made.model.decode
        made.model.decode = lambda z: (time.sleep(float(seconds)), decode(z))[1]
    serve(made, password_file=password, ready=lambda url: print(url, flush=True))
