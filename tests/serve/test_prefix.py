"""Behind a proxy: the page, the API and its documentation below a path, and whose headers count."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from benchmarks.serve.process import running
from segrefine.cli.group import main
from segrefine.serve.app import create_app

PAGE = Path(__file__).parents[2] / "segrefine/serve/page"


@pytest.mark.parametrize("sent", ["/masks", ""], ids=["the proxy keeps the prefix", "the proxy takes it off"])
def test_page_api_and_documentation_below_a_path(sent: str) -> None:
    client = TestClient(create_app([], root_path="/masks"), base_url="http://proxy")
    for path in ("/", "/docs"):
        page = client.get(sent + path)
        assert page.status_code == 200
        links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        links = [link for link in links if not link.startswith("https://")]  # the source and the documentation
        assert len(links) > 3
        for link in links:
            shown = urljoin(f"http://proxy/masks{path}", link)
            assert shown.startswith("http://proxy/masks/"), link
            assert client.get(sent + shown.removeprefix("http://proxy/masks")).status_code == 200, link
    assert client.get(f"{sent}/v1/models").json() == {"models": []}
    assert client.get(f"{sent}/openapi.json").json()["servers"] == [{"url": "/masks"}]


def test_no_script_asks_for_a_path_at_the_root() -> None:
    """A browser takes such a path from the host, whatever the prefix is."""
    files = [*PAGE.glob("*.js"), *PAGE.glob("*.html"), *PAGE.glob("*.css")]
    assert len(files) > 6
    for file in files:
        assert not re.findall(r"""(?:["'`(]|href=|src=)/(?:v1|v2|page|samples|docs|openapi)""", file.read_text()), file


@pytest.mark.parametrize("path", ["/v1/models", "/masks/v1/models", "/metrics", "/masks/metrics"])
def test_the_key_is_asked_with_the_prefix_and_without(path: str) -> None:
    client = TestClient(create_app([], api_key="secret", root_path="/masks"))
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"X-API-Key": "secret"}).status_code == 200


@pytest.mark.parametrize("path", ["masks", "//masks", "/a b", "/a?b", "/v1", "/docs/x", "http://proxy/masks"])
def test_root_paths_that_are_none(path: str) -> None:
    result = CliRunner().invoke(main, ["serve", "demo", "--root-path", path])
    assert result.exit_code == 2 and "--root-path" in result.output


@pytest.mark.parametrize(("trusted", "client"), [("127.0.0.0/8", "203.0.113.9"), ("192.0.2.0/24", "127.0.0.1")])
def test_forwarded_headers_count_from_trusted_addresses(tmp_path: Path, trusted: str, client: str) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    with running(tmp_path, "demo", "--root-path", "/masks/", "--forwarded-allow-ips", trusted) as service:
        with service.http() as http:
            assert http.get("/masks/v1/models", headers=forwarded).status_code == 200
            assert http.get("/v1/models/", headers=forwarded, follow_redirects=False).status_code in (307, 404)
        assert [line["client"] for line in service.events("request")][-1] == client
