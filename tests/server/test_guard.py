"""What reaches an endpoint and what does not, over real sockets."""

from __future__ import annotations

from served import Served


def test_health_answers_in_both_forms(demo_server: Served, small_server: Served) -> None:
    bare = demo_server.client.get("/api/health").json()
    assert bare["status"] == "healthy" and bare["atlas"] == "demo.duckdb"
    enveloped = small_server.client.get("/api/v1/health").json()
    assert enveloped["status"] == "success" and enveloped["data"]["atlas"] == "small.duckdb"
