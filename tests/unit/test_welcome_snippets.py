"""What `wattmill up` prints to be pasted works as it stands, with its key or with the reader's own."""

from __future__ import annotations

import ast

import pytest

from wattmill.cli.welcome import snippets


@pytest.mark.parametrize(("key", "told"), [("wm-abc", "'wm-abc'"), (None, "os.environ['KEY']")])
def test_the_client_of_the_snippet_takes_the_key_that_there_is(key: str | None, told: str) -> None:
    shell, _, python = snippets("http://127.0.0.1:1/v1", key, "m").partition("\n\n")
    assert f'-H "Authorization: Bearer {key or "$KEY"}"' in shell
    call = next(
        node
        for node in ast.walk(ast.parse(python))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "OpenAI"
    )
    assert {k.arg: ast.unparse(k.value) for k in call.keywords} == {
        "base_url": "'http://127.0.0.1:1/v1'",
        "api_key": told,
    }
    assert ("import os" in python.splitlines()) == (key is None)
