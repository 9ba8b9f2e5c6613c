"""The audit of dependencies: it names what is known, and is skipped aloud where no service answers."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from k2_ohlcv_tests.support.servers import free_port
from tools.audit import main, read_pins

PINS = "# pins\nalpha==1.0\nbeta==2.0 ; sys_platform == 'win32'\n"


class _Service(BaseHTTPRequestHandler):
    """Knows one vulnerability of `beta`."""

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        known = [{"vulns": [{"id": "X-1"}]} if q["package"]["name"] == "beta" else {} for q in queries]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"results": known}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the library's name
        """Print nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.txt"
    path.write_text(PINS)
    return path


def test_a_known_vulnerability_fails(
    service: str, requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(requirements), service]) == 1
    assert "beta==2.0 has known vulnerabilities: X-1" in capsys.readouterr().out
    requirements.write_text("alpha==1.0\n")
    assert main([str(requirements), service]) == 0
    assert "1 packages compared, 0 with" in capsys.readouterr().out


def test_without_an_answer_the_audit_says_that_it_was_skipped(
    requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(requirements), f"http://127.0.0.1:{free_port()}"]) == 0
    assert "SKIPPED" in capsys.readouterr().out


def test_every_pin_of_the_project_is_read() -> None:
    path = Path(__file__).parents[1] / "requirements.txt"
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(read_pins(path)) == len(lines)
