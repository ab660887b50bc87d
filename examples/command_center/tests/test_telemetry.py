"""The service runs without caseyos-otel, and only one module knows of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import command_center

PACKAGE = Path(command_center.__file__).parent

WITHOUT = """
import asyncio, sys
sys.modules["caseyos_otel"] = None  # importing it now raises ImportError
import httpx
from command_center.app import create_app
from command_center.settings import Settings

nobody = "http://127.0.0.1:9"
settings = Settings("sqlite:///service.db", nobody, nobody, nobody)
signal = {"source": "webhook", "signal_type": "form_submitted", "contact_email": "john@acmecorp.com"}
async def main():
    app = create_app(settings)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    async with app.router.lifespan_context(app), client as service:
        answer = await service.post("/api/signals", json=signal)
        assert answer.json()["recommendation_generated"] is True, answer.text
        [move] = (await service.get("/api/command-queue/today")).json()["moves"]
        path = f"/api/command-queue/{move['queue_item_id']}"
        assert (await service.post(f"{path}/accept")).status_code == 200
        assert (await service.post(f"{path}/execute", json={})).json()["error_type"] == "api_error"
    print("ran")

asyncio.run(main())
"""


def test_the_service_runs_without_caseyos_otel(tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(WITHOUT)
    command = [sys.executable, "without.py"]
    path = {"PYTHONPATH": str(PACKAGE.parent)}
    ran = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("ran\n", 0), ran.stderr


def test_only_the_telemetry_module_names_caseyos_otel() -> None:
    naming = [module.name for module in sorted(PACKAGE.glob("*.py")) if "caseyos_otel" in module.read_text()]
    assert naming == ["telemetry.py"]
