"""Makes the notebooks: turns each source, NAME.py, into NAME.ipynb, and runs it, so that its figures are inside.

Command: python notebooks/execute.py             all
         python notebooks/execute.py losses      those whose names hold this word
         python notebooks/execute.py --quick     shorter trainings; nothing is written
         python notebooks/execute.py --folder=D  in folder D, where runs are kept; else in one that is removed at the end

A source is Python in the percent format, which editors and Jupytext read: `# %% [markdown]` begins a cell of text,
`# %%` a cell of code. Reviews and the linter see the source; GitHub and Colab show the notebook. A test holds them equal.
"""

import argparse
import base64
import io
import json
import os
import pathlib
import re
import resource
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).parent
COLOURS = 256  # of a picture's palette: half the bytes, and no difference that one sees


def cells(source: str) -> list[tuple[str, str]]:
    """Splits a source into its cells, (kind, text): "markdown" or "code"."""
    found: list[tuple[str, list[str]]] = []
    for line in source.splitlines():
        if line.startswith("# %%"):
            found.append(("markdown" if "[markdown]" in line else "code", []))
        elif found:
            found[-1][1].append(line)
    return [
        (
            kind,
            "\n".join(
                line.removeprefix("#").removeprefix(" ") if kind == "markdown" else line
                for line in lines
            ),
        )
        for kind, lines in [(kind, _trimmed(lines)) for kind, lines in found]
    ]


def notebook(source: str) -> dict[str, Any]:
    """Returns a notebook, without outputs, of a source."""
    made = []
    for number, (kind, text) in enumerate(cells(source)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    about = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}


def execute(
    source: str, folder: str | os.PathLike, quick: bool = False, seconds: int = 3600
) -> dict[str, Any]:
    """Runs a source's cells in a kernel that works in a folder; returns the notebook with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.from_dict(notebook(source))
    environment = {**os.environ, "CBJAX_QUICK": "1" if quick else ""}
    client = NotebookClient(
        made,
        timeout=seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment, cwd=str(folder))
    return made


def lighter(made: dict[str, Any], folder: str) -> dict[str, Any]:
    """Returns a notebook with smaller pictures, and without what differs from one machine or run to the next.

    The bars' times are such: those of a busy machine would contradict the time that the first cell promises.
    """
    for cell in made["cells"]:
        cell["metadata"] = {}
        for output in cell.get("outputs", ()):
            for kind in ("text/plain", "text/html"):
                if isinstance(text := output.get("data", {}).get(kind), str):
                    output["data"][kind] = re.sub(r"( of \d+( \w+)?) after [\d:]+", r"\1", text)
            if (png := output.get("data", {}).get("image/png")) is not None:
                output["data"]["image/png"] = base64.b64encode(
                    _fewer_colours(base64.b64decode(png))
                ).decode()
    return json.loads(json.dumps(made).replace(folder, "~"))


def _fewer_colours(png: bytes) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(packed, "PNG", optimize=True)
    return min(packed.getvalue(), png, key=len)


def _trimmed(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", help="run those whose names hold one of these words; all by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short trainings; nothing is written"
    )
    parser.add_argument(
        "--folder",
        help="where the notebooks work: runs that are finished there are not trained again",
    )
    options = parser.parse_args()
    for path in sorted(HERE.glob("[0-9]*.py")):
        if options.words and not any(word in path.name for word in options.words):
            continue
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as own:
            folder = os.path.abspath(options.folder or own)
            made = execute(path.read_text(), folder, options.quick)
            if not options.quick:
                text = json.dumps(
                    lighter(made, folder), indent=1, ensure_ascii=False, sort_keys=True
                )
                path.with_suffix(".ipynb").write_text(text + "\n")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{path.name}: {time.perf_counter() - begun:.0f} s, {of_cpu:.0f} s of CPU",
            flush=True,
        )


if __name__ == "__main__":
    main()
