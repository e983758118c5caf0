"""The reader of pages reads what is there, and notices a page that lies."""

from __future__ import annotations

import pytest
from doc_pages import missing_line, steps

PAGE = """# A page

```console
$ echo one \\
> two
one two
$ true
```

<!-- test: echo unseen -->

```python file=ask.py
print("hi")
```

```console background
$ wattmill up
```

```console not-run: it needs a graphics card
$ vllm serve
```
"""


def test_commands_files_and_hidden_steps_come_in_the_order_of_the_page() -> None:
    kinds = [(step.kind, step.text, step.expected, step.file) for step in steps(PAGE)]
    assert kinds == [
        ("type", "echo one \\\ntwo", ("one two",), None),
        ("type", "true", (), None),
        ("type", "echo unseen", (), None),
        ("write", 'print("hi")\n', (), "ask.py"),
        ("background", "wattmill up", (), None),
    ]
    assert steps(PAGE)[0].line == 4


def test_a_block_with_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(ValueError, match="not-run"):
        steps("```console not-run\n$ rm -rf /\n```")


def test_a_block_that_would_silently_not_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="make it `console`"):
        steps("```sh\nwattmill up\n```")


def test_shown_lines_must_occur_in_order_and_the_ellipsis_stands_for_anything() -> None:
    output = "request  req_1\nplace    edge\ncharge   0.000031 USD\n"
    assert missing_line(("request … req_…", "charge … USD"), output) is None
    assert missing_line(("charge … USD", "request …"), output) == "request …"
    assert missing_line(("place cloud",), output) == "place cloud"
