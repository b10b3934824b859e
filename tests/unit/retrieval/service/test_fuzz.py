"""Requests made up from the API's own description, right and wrong ones."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ur2.retrieval.options import ServeOptions
from ur2.retrieval.service.app import create_app

PATHS = {
    "/retrieve": "POST",
    "/queries": "POST",
    "/reload": "POST",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]
LATE = 504


@pytest.fixture
def api(open_service: Any) -> Any:
    options = ServeOptions(index="unused", max_top_k=5, max_queries=3)
    app = create_app(open_service(options), options, token="secret")
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_every_endpoint_is_described(api: Any) -> None:
    assert {path: list(api[path]) for path in api} == {
        path: [method.lower()] for path, method in PATHS.items()
    }


@pytest.mark.parametrize("path", PATHS)
def test_every_request_gets_an_answer_that_the_description_promises(path: str, api: Any) -> None:
    operation = api[path][PATHS[path]]
    modes = list(GenerationMode) if PATHS[path] == "POST" else [GenerationMode.POSITIVE]
    cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

    @given(case=cases)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        response = case.call(headers={"Authorization": "Bearer secret"})
        case.validate_response(response, checks=CHECKS)
        # A made-up deadline may be shorter than the search.
        assert response.status_code < 500 or response.status_code == LATE

    check()
