"""What is found while a graph runs: on the node, in the log, and in the history. Host's Python.

The history holds what a node returns: the notes of the pack's own nodes, and of no stock one.
"""

from __future__ import annotations

from typing import Any

import pytest
from workflow_kit import Api, changed, graph, need_llms, need_nodes, node_of

WORDS = " ".join(["cat"] * 12)
CUT = 5  # tokens
TAKEN_BACK = "What was noted here before no longer holds."  # of the node's run before
SEEDS = iter(range(1000, 2000))  # so that nothing is cached


def lidit(**sampler: Any) -> Api:
    quick = {"steps": 2, "seed": next(SEEDS), **sampler}
    return changed(graph("text_to_image"), "KSampler", **quick)


def llmdiff(adapted: bool = True, joined: bool = True) -> Api:
    """The graph that draws in mode add, with or without adapter and LLM text."""
    api = graph("llmdiff")
    ends = (*(str(n) for n in (9, 11, 13, 14, 16, 17, 19, 20, 22)), *(() if joined else "67"))
    api = {i: node for i, node in api.items() if i not in ends}
    api = changed(api, "KSampler", steps=2, seed=next(SEEDS), model=["8" if adapted else "1", 0])
    return api if joined else changed(api, "KSampler", positive=["4", 0], negative=["5", 0])


def put(api: Api, kind: str, before: str = "positive", output: int = 0, **inputs: Any) -> Api:
    """With a node between the sampler and its positive prompt; None = that prompt's link."""
    (sampler,) = (i for i, n in api.items() if n["class_type"] in ("KSampler", "LiDiTSampler"))
    link = api[sampler]["inputs"][before]
    given = {name: link if value is None else value for name, value in inputs.items()}
    api = changed(api, api[sampler]["class_type"], **{before: [kind, output]})
    return {**api, kind: {"class_type": kind, "inputs": given}}


def multiplied(api: Api) -> Api:
    return put(api, "ConditioningMultiply", conditioning=None, multiplier=1.7)


def averaged(api: Api, other: list) -> Api:
    weighed = {"conditioning_to": None, "conditioning_from": other, "conditioning_to_strength": 0.5}
    return put(api, "ConditioningAverage", **weighed)


def ours(api: Api) -> Api:
    """With the pack's own sampler."""
    name = node_of(api, "KSampler")
    inputs = {**api[name]["inputs"], "guidance_start": 0.0, "guidance_end": 1.0}
    return {**api, name: {"class_type": "LiDiTSampler", "inputs": inputs}}


def encoded(api: Api) -> Api:
    """With the pack's own text encoding."""
    kinds = {"CLIPTextEncode": "LiDiTTextEncode"}
    return {i: {**n, "class_type": kinds.get(n["class_type"], n["class_type"])}
            for i, n in api.items()}  # fmt: skip


def cut(api: Api) -> Api:
    api = changed(api, "LiDiTLLMLoader", token_budget=CUT)
    if any(node["class_type"] == "PrimitiveStringMultiline" for node in api.values()):
        return changed(api, "PrimitiveStringMultiline", value=WORDS)
    api["3"]["inputs"]["text"] = WORDS
    return api


def refined(api: Api) -> Api:
    how = {
        "refiner": "by LLM name",
        "attention": "as trained",
        "gating": "as trained",
        "strength": 1.0,
    }
    return put(api, "LiDiTLinguisticTokenRefiner", conditioning=None, **how)


def fused(api: Api) -> Api:
    how = {"fusion": "as trained", **{f"weight_{n}": 1.0 for n in range(1, 5)}}
    return put(api, "LiDiTCollaborativeRefiner", conditioning_1=None, **how)


MULTIPLIED, CHANGED = "multiplied the states of", "a node changed the states of"
# the graph, the kind of node that is told, and words of what it is told
FOUND = {
    "a sampler that needs more steps": (
        lambda: lidit(sampler_name="lms", steps=4), "KSampler", "the sampler lms takes 4 steps"),
    "a start too late": (
        lambda: lidit(denoise=0.4), "KSampler", "begins at sigma"),
    "a multiplied conditioning": (
        lambda: multiplied(lidit()), "KSampler", MULTIPLIED),
    "a mixed conditioning": (
        lambda: averaged(lidit(), ["4", 0]), "KSampler", CHANGED),
    "another template": (
        lambda: changed(lidit(), "LiDiTLLMLoader", template="none"),
        "KSampler", "another template or layer"),
    "a cut prompt": (
        lambda: cut(lidit()), "CLIPTextEncode", "only the first 5"),
    "no text for an adapter": (
        lambda: llmdiff(joined=False), "KSampler", "the LLMDiff adapter does nothing"),
    "no adapter for a text": (
        lambda: llmdiff(adapted=False), "KSampler", "no LLMDiff adapter"),
    "a mix that an adapter cannot follow": (
        lambda: averaged(llmdiff(), ["7", 0]), "KSampler", "after LLMDiff Encode"),
    "our sampler": (
        lambda: ours(lidit(sampler_name="lms", steps=4)),
        "LiDiTSampler", "the sampler lms takes 4 steps"),
    "our sampler, of text": (
        lambda: ours(multiplied(lidit())), "LiDiTSampler", MULTIPLIED),
    "our encoding": (
        lambda: cut(encoded(lidit())), "LiDiTTextEncode", "only the first 5"),
    "an adapter's encoding": (
        lambda: cut(llmdiff()), "LLMDiffEncode", "only the first 5"),
    "a refiner's node": (
        lambda: refined(multiplied(lidit())), "LiDiTLinguisticTokenRefiner", MULTIPLIED),
    "the node of both refiners": (
        lambda: fused(multiplied(lidit())), "LiDiTCollaborativeRefiner", MULTIPLIED),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_is_told_everywhere(server, name):
    build, kind, words = FOUND[name]
    api = build()
    need_llms(api)
    need_nodes(server, api)
    before = len(server.log)
    run = server.draw(api)
    assert run.ending == "execution_success", run.error
    told = {i: texts[-1] for i, texts in run.texts.items() if words in texts[-1]}
    assert [api[i]["class_type"] for i in told] == [kind]
    ((node, text),) = told.items()
    (line,) = (line.removesuffix(".") for line in text.splitlines() if words in line)
    assert server.log[before:].count(line) == 1
    kept = server.outputs(run.prompt_id).get(node, {})
    assert (words in "\n".join(kept.get("text", []))) == kind.startswith("L")


def test_a_graph_without_fault_has_no_note(server):
    api = encoded(ours(lidit()))
    need_llms(api)
    run = server.draw(api)
    assert run.ending == "execution_success", run.error
    told = {text for texts in run.texts.values() for text in texts}
    found = [words for _, _, words in FOUND.values()]
    assert not any(words in text for text in told - {TAKEN_BACK} for words in found)
