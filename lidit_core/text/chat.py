"""Chat templates of tokenizers, rendered with a placeholder for the prompt."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LiDiTError, check

PLACEHOLDER = "\ue0f1prompt\ue0f2"  # private-use characters: in no chat template and no prompt
DATE = "26 Jul 2024"  # for chat templates that would put in today, and other states every day
SECONDS = 10  # that a template may take; those of LLMs take milliseconds
DIGITS = 6  # of a number in a chat template
# Goes before a chat template, which asks transformers for today with `strftime_now(format)`; the
# template's own text is left as it is, for the newline belongs to the macro.
NOT_TODAY = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n"


def render_chat(tokenizer, system: str, user: str, reply: str = "") -> str:
    """The chat template's text for one user turn, without a system prompt that nobody asked for.

    A template that has no system role gets the system text at the head of the user's turn.

    Args:
        reply: the LLM's turn after the user's; "" = none.
    """
    turn = {"role": "user", "content": user}
    after = [{"role": "assistant", "content": reply}] if reply else []
    apart = _rendered(tokenizer, [{"role": "system", "content": system}, turn, *after])
    if system and apart and system.strip() in apart:
        return apart
    folded = {"role": "user", "content": f"{system}\n\n{user}" if system else user}
    alone = _rendered(tokenizer, [folded, *after])
    texts = [text for text in (apart if not system else None, alone) if text]
    if not texts:
        raise LiDiTError(
            f"the chat template of {tokenizer.name_or_path!r} cannot render a user turn; "
            "use a template with chat = false"
        )
    return min(texts, key=len)


def reads_parts(tokenizer) -> bool:
    """Whether the chat template reads a turn's parts and not its text, as those of LLaVA do."""
    turn = {"role": "user", "content": PLACEHOLDER}
    return PLACEHOLDER not in (_rendered(tokenizer, [turn], in_parts=False) or PLACEHOLDER)


def _rendered(tokenizer, messages: list[dict], in_parts: bool = True) -> str | None:
    """The chat template's text, or None where it refuses these messages."""
    if in_parts and reads_parts(tokenizer):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    try:
        template = NOT_TODAY + tokenizer.get_chat_template()
        _check_ends(template, tokenizer.name_or_path)
        with _time_limit(SECONDS):
            return tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, date_string=DATE
            )
    except TimeoutError as error:
        raise LiDiTError(
            f"the chat template of {tokenizer.name_or_path!r} runs longer than {SECONDS} seconds; "
            "use a template with chat = false, or get the LLM's tokenizer from its maker"
        ) from error
    except LiDiTError:
        raise
    except Exception:  # a template is a program, and its errors are of any kind
        return None


def _check_ends(template: str, name: str) -> None:
    """Refuse powers and large numbers: one such product takes hours, and no limit stops it."""
    from jinja2 import Environment

    odd = [
        value
        for _, kind, value in Environment().lex(template)
        if (kind == "operator" and value == "**") or (kind == "integer" and len(value) > DIGITS)
    ]
    check(
        not odd,
        f"the chat template of {name!r} computes with {odd[0] if odd else ''}, which may never "
        "end; use a template with chat = false, or get the LLM's tokenizer from its maker",
    )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in Python code that is entered within, once the time is over."""
    before, end = sys.gettrace(), time.monotonic() + seconds

    def trace(frame, event, arg):
        if time.monotonic() > end:
            raise TimeoutError
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
