"""Requests made from the OpenAPI document, those it allows and those it does not, against the real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks
from served import Served, serving

EACH = 3  # requests of an endpoint, valid and invalid ones
SLOW = ("/check", "/motifs")  # seconds each
UNBOUNDED = ("/events",)  # a stream that ends with its job


@pytest.fixture(scope="module")
def api(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo atlas without a model: what would start a job is refused, and all else answers."""
    file = Path(shutil.copyfile(demo_file, tmp_path_factory.mktemp("schemathesis") / "demo.duckdb"))
    with serving(file, sql_seconds=2.0) as served:
        yield served


def test_no_answer_is_a_fault_or_off_the_document(api: Served) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    checks = [CHECKS.get_one(name) for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
        "response_headers_conformance", "unsupported_method",
        # of bodies alone: in an address its text may be valid when the value it was made from was not
        "negative_data_rejection",
    )]  # fmt: skip
    faults, done = [], 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if any(part in operation.path for part in (*SLOW, *UNBOUNDED)):
            continue
        faults += _tried(operation, checks, api)
        done += 1
    assert done > 80 and not faults, "\n\n".join(faults)


def _tried(operation: Any, checks: list[Any], api: Served) -> list[str]:
    faults: list[str] = []

    def one(case: Any) -> None:
        answer = case.call(base_url=api.url, timeout=60)
        if answer.status_code in (409, 503) and b'"error"' in answer.content:
            return  # no model, or a job too many: the document says so
        try:
            case.validate_response(answer, checks=checks[: -1 if operation.method == "get" else None])
        except BaseExceptionGroup as group:
            faults.extend(f"{operation.label}: {error}"[:900] for error in group.exceptions)

    for strategy in (
        operation.as_strategy(),
        operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
    ):
        _run(strategy, one)
    return faults


def _run(strategy: Any, one: Any) -> None:
    quiet = settings(
        max_examples=EACH, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=False,
    )  # fmt: skip
    with suppress(Unsatisfiable):  # an endpoint without parameters cannot be asked wrongly
        seed(1)(quiet(given(strategy)(one)))()
