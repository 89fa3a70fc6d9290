"""What a real browser sends for a page that somebody else wrote, to a daemon that asks nobody who calls.

The API on the Unix socket is reached through a port, as somebody has it who forwards it by ssh: what keeps the page out
is that a browser says where a request comes from, and nothing else.
"""

import http.server
import json
import re
import threading

import pytest

from tests.kit.agent_process import DEPLOYMENT
from tests.kit.commands import run
from tests.kit.deployments import job
from tests.kit.relay import relayed

SWITCHES = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync virtual-time-budget=10000 dump-dom"
)

# Every way that a page has of making a browser send something elsewhere. What comes back it may not read, and need not.
PAGE = """<!DOCTYPE html><meta charset="utf-8"><iframe name="frame"></iframe><script>
const target = TARGET, order = ORDER;
const tries = {
  form: () => new Promise(sent => {
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: target, target: "frame", enctype: "text/plain"});
    const input = document.createElement("input");
    const text = JSON.stringify(order);
    Object.assign(input, {type: "hidden", name: text.slice(0, -1) + ', "description": "', value: '"}'});
    form.append(input);
    document.body.append(form);
    document.querySelector("iframe").onload = sent;
    form.submit();
  }),
  simple: () => fetch(target, {method: "POST", mode: "no-cors", body: JSON.stringify(order)}),
  json: () => fetch(
    target, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(order)}),
  erase: () => fetch(target, {method: "DELETE"}),
  beacon: () => navigator.sendBeacon(target, JSON.stringify(order)),
  read: () => fetch(target, {mode: "no-cors"}),
  image: () => new Promise((loaded, failed) => Object.assign(
    new Image(), {src: target, onload: loaded, onerror: failed})),
  events: () => new Promise((open, failed) => Object.assign(
    new EventSource(target.replace(/dedicated.*/, "v1/events")), {onmessage: open, onerror: failed})),
};
addEventListener("load", async () => {
  for (const [name, act] of Object.entries(tries)) try { await act(); } catch (error) { }
  document.title = "tried";
});
</script>"""


@pytest.fixture
def serve_page():
    """A function: the address of a page with this content, on a server of its own."""
    content = b""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(text):
        nonlocal content
        content = text.encode()
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    server.shutdown()
    server.server_close()


def browse(url, directory):
    """What the browser makes of an address, as HTML."""
    switches = [f"--{switch}" for switch in (*SWITCHES.split(), f"user-data-dir={directory}")]
    return run("chromium", *switches, url)


def test_no_page_can_have_a_browser_order_erase_or_read_anything(
    make_agent, web, image, serve_page, tmp_path
):
    agent = make_agent().start()
    with relayed(agent.socket) as relay:
        target = f"http://127.0.0.1:{relay.port}{DEPLOYMENT}"
        page = PAGE.replace("TARGET", json.dumps(target)).replace(
            "ORDER", json.dumps(job(web.url, image.sha256))
        )
        assert "<title>tried</title>" in browse(serve_page(page), tmp_path / "browser")
        asked = relay.exchanges()
        assert {method for method, _, _ in asked} >= {"GET", "POST", "OPTIONS"}
        assert len(asked) == 8, asked
        assert {status for _, _, status in asked} == {403}, asked
        assert agent.get(DEPLOYMENT).status == 404

        # The same browser, where its user asks for the address: he may read.
        shown = browse(target.replace(DEPLOYMENT, "/v1/status"), tmp_path / "browser")
        assert re.search(r'"agent"|"version"', shown), shown
        assert relay.exchanges()[-1][2] in (200, 404)
