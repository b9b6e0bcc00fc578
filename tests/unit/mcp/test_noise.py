"""NoiseLog: a flood of faults is a few lines of log."""

from typing import Any

import pytest

from mesh.mcp import noise


def test_a_flood_is_counted_instead_of_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **fields: Any) -> None:
            logged.append({"event": event, **fields})

    monkeypatch.setattr(noise, "_log", Log())
    now = 0.0
    log = noise.NoiseLog("s", burst=2, interval=10, clock=lambda: now)
    for _ in range(100):
        log.warn("fault")
    assert len(logged) == 2
    now = 10.0
    log.warn("fault", size=1)
    assert logged[2:] == [{"event": "fault", "mcp_server": "s", "size": 1, "suppressed": 98}]
