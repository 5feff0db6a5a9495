"""The page as one HTML file that sends no request: style, script and data are inside of it."""

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from flaxae.errors import ConfigError
from flaxae.storage.paths import write_text

FOLDER = Path(__file__).parent / "templates"


def render(content: dict[str, Any]) -> str:
    """Return the page.

    All texts are data in JSON, which the script inserts as text, never as HTML. The policy in the
    page's head allows its own style and script, by their hashes, and nothing else.

    Args:
        content: what `content.build` returns.

    Raises:
        ConfigError: if a number of a feature is not finite, which no browser could read.
    """
    _check_finite(content)
    style, script = ((FOLDER / name).read_text() for name in ("page.css", "page.js"))
    # "<" would end the element that contains the data; U+2028 is a line end in older scripts.
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    data = text.replace("<", "\\u003c")
    parts = {
        "POLICY": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(f"Features of {content['about']['name']}"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": data,
    }
    before, *rest = (FOLDER / "page.html").read_text().split("{{")
    out = [before]
    for part in rest:
        name, _, after = part.partition("}}")
        out += [parts[name], after]
    return "".join(out)


def _check_finite(content: dict[str, Any]) -> None:
    """Raise ConfigError for the first feature with a number that is not finite."""
    for feature in content["features"]:
        for name, value in feature.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ConfigError(
                    f"feature {feature['n']}: {name!r} contains a number that is not finite: check "
                    "the dictionary's weights, and the model's with --dtype float32"
                ) from None


def write(content: dict[str, Any], file: Path) -> int:
    """Write the page; return its size in bytes.

    Raises:
        ConfigError: if it cannot be written, or a number of a feature is not finite.
    """
    text = render(content)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise ConfigError(f"--out={file}: {error.strerror}") from None
    return len(text.encode())


def _hash(text: str) -> str:
    """Return the source expression of a policy that allows this text."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
