"""Twenty prompts by two clients: in order, right pictures, the LLM loaded once. See conftest.py"""

from __future__ import annotations

from workflow_kit import SAMPLERS, changed, drawn_anew, forget_all, node_of, only_picture, same

EACH = 10
PROMPTS = ("a red cat", "two blue dogs on a white background")  # of the two clients
LOADED = "Requested to load LLMHolder"


def test_twenty_prompts_by_two_clients(server, api):
    from host_server import Client

    forget_all(server)
    positive = api[node_of(api, "KSampler")]["inputs"]["positive"][0]

    def asked(n: int) -> dict:
        changes = changed(api, SAMPLERS, seed=n, steps=4)
        changes[positive]["inputs"]["text"] = f"{PROMPTS[n % 2]} number {n // 4}"
        return changes

    before = len(server.log)
    with Client(server) as first, Client(server) as second:
        clients = (first, second)
        queued = [(n, clients[n % 2], clients[n % 2].queue(asked(n))) for n in range(2 * EACH)]
        runs = [client.wait(prompt_id) for _, client, prompt_id in queued]
        assert all(len(client.runs) == EACH for client in clients)  # of the other's it hears none
    pictures = [only_picture(run) for run in runs]
    starts = [run.of_type("execution_start")[0]["timestamp"] for run in runs]
    assert starts == sorted(starts)
    loader = node_of(api, "LiDiTLLMLoader")
    assert [loader in run.cached for run in runs] == [False] + [True] * (2 * EACH - 1)
    assert server.log[before:].count(LOADED) == 1
    assert not any(same(a, b) for i, a in enumerate(pictures) for b in pictures[:i])
    for n in (0, 7, 19):  # what each draws alone
        assert same(pictures[n], drawn_anew(server, asked(n)))
