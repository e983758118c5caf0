"""An agent that got lost, and the budget that stops it.

It asks a model again and again, appends each answer to what it sends next, and never finds what it looks for:
plain OpenAI (or Anthropic) client calls, no framework, no code of wattmill's inside the loop. The run around
it has a cap. The last answer is cut where the cap is reached, and kept; the next call is refused.

    export WATTMILL_BASE_URL=http://127.0.0.1:8686/v1 WATTMILL_API_KEY=wm-...
    python examples/runaway_agent.py --model smollm2-135m --budget "0.05 USD" [--door chat] [--stream]

Needs `pip install openai` (and `anthropic` for `--door messages`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import openai

import wattmill

Ask = Callable[[list[dict[str, Any]]], tuple[str, str]]
TASK = "Find the file with the answer. Look again until you have found it."


def by_chat(run: wattmill.Run, model: str, stream: bool, max_tokens: int) -> Ask:
    client = openai.OpenAI(base_url=run.base_url, api_key=run.api_key)

    def ask(history: list[dict[str, Any]]) -> tuple[str, str]:
        more: dict[str, Any] = {"model": model, "messages": history, "max_tokens": max_tokens}
        if not stream:
            choice = client.chat.completions.create(**more).choices[0]
            return choice.message.content or "", choice.finish_reason
        text, finish = "", ""
        for event in client.chat.completions.create(**more, stream=True):
            for choice in event.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        return text, finish

    return ask


def by_responses(run: wattmill.Run, model: str, stream: bool, max_tokens: int) -> Ask:
    client = openai.OpenAI(base_url=run.base_url, api_key=run.api_key)

    def ask(history: list[dict[str, Any]]) -> tuple[str, str]:
        more: dict[str, Any] = {
            "model": model,
            "input": history,
            "max_output_tokens": max_tokens,
            "store": False,
        }
        if not stream:
            answer = client.responses.create(**more)
        else:
            for event in client.responses.create(**more, stream=True):
                if event.type in ("response.completed", "response.incomplete"):
                    answer = event.response
        why = answer.incomplete_details.reason if answer.incomplete_details else "stop"
        return answer.output_text, str(why)

    return ask


def by_messages(run: wattmill.Run, model: str, stream: bool, max_tokens: int) -> Ask:
    import anthropic

    client = anthropic.Anthropic(base_url=run.base_url.removesuffix("/v1"), api_key=run.api_key)

    def ask(history: list[dict[str, Any]]) -> tuple[str, str]:
        more: dict[str, Any] = {"model": model, "messages": history, "max_tokens": max_tokens}
        if stream:
            with client.messages.stream(**more) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(**more)
        return "".join(part.text for part in answer.content if part.type == "text"), str(answer.stop_reason)

    return ask


DOORS = {"chat": by_chat, "responses": by_responses, "messages": by_messages}


def look_for_ever(ask: Ask, *, most_calls: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run away until somebody stops it; return what there is to show for it."""
    history: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    kept: list[str] = []
    ends: list[str] = []
    stopped_by = None
    for call in range(1, most_calls + 1):
        try:
            text, end = ask(history)
        except Exception as error:  # noqa: BLE001 - openai's and anthropic's errors have no common class
            body = getattr(error, "body", None)
            said = body.get("error", body) if isinstance(body, dict) else {}
            stopped_by = str(said.get("code") or said.get("type") or type(error).__name__)
            say(f"call {call}: stopped ({stopped_by}): {said.get('message', error)}")
            break
        kept.append(text)
        ends.append(end)
        say(f"call {call}: {len(text)} characters, ended by {end}")
        history += [
            {"role": "assistant", "content": text or "..."},
            {"role": "user", "content": f"Nothing in place {call}. Look again."},
        ]
    return {
        "calls": len(kept),
        "stopped_by": stopped_by,
        "last_end": ends[-1] if ends else None,
        "kept_characters": sum(map(len, kept)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--budget", default="0.05 USD")
    parser.add_argument("--door", choices=DOORS, default="chat")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--most-calls", type=int, default=1_000, help="in case that nobody stops it")
    parser.add_argument("--json", action="store_true", help="one line for programs instead of words")
    args = parser.parse_args()
    say = (lambda _: None) if args.json else print
    with wattmill.run(args.budget, label="runaway agent") as run:
        ask = DOORS[args.door](run, args.model, args.stream, args.max_tokens)
        found = look_for_ever(ask, most_calls=args.most_calls, say=say)
        found |= {"run": run.refresh()["node"], "spent_usd": f"{run.spent_usd:f}", "budget": args.budget}
    if args.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['calls']} answers kept, {found['kept_characters']} characters; "
            f"spent {found['spent_usd']} of {args.budget}"
        )


if __name__ == "__main__":
    main()
