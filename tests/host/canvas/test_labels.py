"""Nodes fit where workflows have them; titles and names of inputs are whole. Host's Python."""

from __future__ import annotations

import pytest
from workflow_kit import NAMES, check_boxes, need_nodes, read

TOO_NARROW = """title => {
    app.graph._nodes[0].title = title
    app.graph._nodes[0].setSize([150, 130])
}"""


@pytest.fixture(params=[False, True], ids=["classic", "nodes-2.0"])
def modern(request, browser, host):
    """One of the frontend's two canvases."""
    if request.param and host.version.startswith("0.3."):
        pytest.skip("this host's Nodes 2.0 are an early trial")
    from host_browser import MODERN  # which needs playwright, as the browser does

    browser.setting(MODERN, request.param)
    yield request.param
    browser.setting(MODERN, False)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_and_labels_fit_in_a_workflow_in_the_browser(browser, server, modern, name):
    ui, api = read(name)
    need_nodes(server, api)
    browser.open(ui)
    check_boxes(ui, browser.boxes(modern))
    assert browser.cut_labels(modern) == []


def test_no_label_is_cut_on_a_new_node_in_the_browser(browser, pack, modern):
    browser.add(sorted(pack.classes))
    assert browser.cut_labels(modern) == []


def test_a_label_that_is_cut_is_found_in_the_browser(browser, modern):
    """The check itself: a title too long for any node, and an input's name on a narrow one."""
    browser.add(["LiDiTModelLoader"])
    browser.page.evaluate(TOO_NARROW, "load ".ljust(200, "x"))
    found = browser.cut_labels(modern)
    assert any(label.endswith("xxx") for label in found), found
    assert modern or any(label.endswith("model_name") for label in found), found
