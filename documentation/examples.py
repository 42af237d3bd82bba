"""The examples of the documents: commands after a `$`, and Python, in the order of their page.

`NOT_RUN` lists the commands that no test can run, each with its reason. `python -m documentation.examples` counts both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from documentation.prose import documents

_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"""(?:"[^"]*"|'[^']*'|[^#"']|(?<=\S)#)*""")

NOT_RUN = {
    r"^(\.venv/bin/)?pip |^python3 -m venv|^source |^sudo |^nvidia-smi$|^cp -r ": "sets up a machine",
    r"^make |^docker |^tritonserver |^nuctl ": "is another program",
    r"tensorrt|--device cuda": "needs a GPU",
    r"^segrefine serve |^segrefine watch |segrefine\.integrations": "runs until it is stopped; has own tests",
    r"--ray": "needs a cluster; tests/batch/test_cluster.py runs one",
    r"^segrefine export (sd2-community/|model\.safetensors|path/to/model)": "needs a model of a hub, or of one's own",
    r"^segrefine bench |VOCdevkit|--protocol png|^segrefine export run/": "needs the papers' data; tests/evaluation",
    r"^segrefine (train|tune) |my-run": "takes minutes to days; tests/train and tests/tuning run it",
    r"(cams|found\.json|boxes\.json|ade20k)": "needs a data set of that notation; tests/datasets has them",
}
"""What marks a command that is not run, and why not."""


@dataclass(frozen=True)
class Example:
    """One command, or one block of Python.

    Attributes:
        page: the document.
        kind: "console" or "python".
        text: the command without its `$` and its comment, or the code.
    """

    page: Path
    kind: str
    text: str

    @property
    def reason(self) -> str | None:
        """Why it is not run, or None."""
        if self.kind == "python":
            return None
        return next((reason for mark, reason in NOT_RUN.items() if re.search(mark, self.text)), None)


def examples(page: Path) -> Iterator[Example]:
    """The examples of a document, in their order."""
    for kind, text in _BLOCK.findall(page.read_text()):
        if kind == "python":
            yield Example(page, kind, text)
            continue
        for line in text.splitlines():
            if line.startswith("$ "):
                yield Example(page, kind, _without_comment(line.removeprefix("$ ")))


def _without_comment(line: str) -> str:
    """A command line without the comment at its end. A # within quotes or a word begins none."""
    found = _COMMAND.match(line)
    assert found
    return found[0].strip()


def main() -> None:
    """Print how many examples are run, and how many not for which reason."""
    every = [each for page in documents() for each in examples(page)]
    print(f"{sum(each.reason is None for each in every)} of {len(every)} examples are run by a test")
    for reason, count in Counter(each.reason for each in every if each.reason).most_common():
        print(f"{count:4} not: {reason}")


if __name__ == "__main__":
    main()
