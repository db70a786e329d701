"""The browser of the tests notices what a person would only see in the console."""

import pytest

from pipelinepulse.tests.browser import watch

pytestmark = pytest.mark.browser

POLICY = "default-src 'self'; img-src 'self' data:"


def show(context, body: str, *, status: int = 200) -> list[str]:
    """What went wrong on a page with that body, under a strict policy."""
    problems = watch(context)
    page = context.new_page()
    page.route(
        "**/*",
        lambda route: route.fulfill(
            status=status if route.request.resource_type == "document" else 500,
            headers={"Content-Security-Policy": POLICY, "Content-Type": "text/html"},
            body=f'<!doctype html><title>x</title><link rel="icon" href="data:,">{body}',
        ),
    )
    page.goto("http://127.0.0.1:9/")
    page.evaluate("0")
    page.close()
    return problems


def test_clean_page_is_clean(context) -> None:
    assert show(context, "<p>fine</p>") == []


def test_inline_script_is_a_violation(context) -> None:
    assert any("Content Security Policy" in text for text in show(context, "<script>1</script>"))


def test_inline_style_is_a_violation(context) -> None:
    assert any("Content Security Policy" in text for text in show(context, '<p style="top:0">x'))


def test_broken_resource_is_a_problem(context) -> None:
    assert any("500" in text for text in show(context, '<img src="/missing.png">'))


def test_refused_input_is_none(context) -> None:
    assert not any("422" in text for text in show(context, "<p>no</p>", status=422))
