"""Chat templates of tokenizers, rendered with a placeholder for the prompt."""

from __future__ import annotations

from ..errors import LiDiTError

PLACEHOLDER = "\ue0f1prompt\ue0f2"  # private-use characters: in no chat template and no prompt
DATE = "26 Jul 2024"  # for chat templates that would put in today, and other states every day
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
    from jinja2.exceptions import TemplateError

    if in_parts and reads_parts(tokenizer):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    template = NOT_TODAY + tokenizer.get_chat_template()
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, date_string=DATE
        )
    except (TemplateError, TypeError):
        return None
