"""Query parameters, headers and bodies that several calls read, checked as the CRM does."""

from typing import Any

from crm.sandbox.clock import parse_instant, text_of
from crm.sandbox.errors import ApiError, invalid_data
from crm.sandbox.fragments import to_fragment
from crm.sandbox.schema import Module
from crm.sandbox.server import Request
from crm.sandbox.store import Store

MAX_PER_PAGE = 200
MAX_IDS = 100
MAX_IDS_TEXT = 1024


def one_of(query: dict[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    """A parameter with a fixed set of values."""
    value = query.get(name, default)
    if value not in allowed:
        raise invalid_data(param_name=name, supported_values=list(allowed))
    return value


def whole(query: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number within a range."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        raise invalid_data(param_name=name, expected_data_type="integer", range=[least, most])
    return int(text)


def ids_of(query: dict[str, str]) -> tuple[int, ...]:
    """The record ids of `ids`; none given: none."""
    if "ids" not in query:
        return ()
    texts = [text.strip() for text in query["ids"].split(",") if text.strip()]
    if not texts or not all(t.isascii() and t.isdigit() and len(t) < 20 for t in texts):
        raise invalid_data(param_name="ids")
    if len(texts) > MAX_IDS:
        raise ApiError(
            400,
            "LIMIT_EXCEEDED",
            "the number of ids exceeds the limit",
            {"limit": MAX_IDS, "param_name": "ids"},
        )
    if len(query["ids"]) > MAX_IDS_TEXT:
        raise invalid_data(param_name="ids", maximum_length=MAX_IDS_TEXT)
    return tuple(int(t) for t in texts)


def modified_since(request: Request) -> str | None:
    """If-Modified-Since as a fragment to compare with; anything but ISO is refused."""
    text = request.headers.get("if-modified-since")
    if text is None:
        return None
    instant = parse_instant(text)
    if instant is None:
        raise invalid_data(header_name="If-Modified-Since", expected_data_type="datetime")
    return to_fragment(text_of(instant))


def paging(query: dict[str, str]) -> tuple[int, int]:
    """`page` and `per_page`."""
    per_page = whole(query, "per_page", MAX_PER_PAGE, 1, MAX_PER_PAGE)
    return whole(query, "page", 1, 1, 10**9), per_page


def json_object(request: Request) -> dict[str, Any]:
    """The body, which must be a JSON object."""
    try:
        content = request.json
    except ValueError as error:
        raise invalid_data("the request body is not valid JSON") from error
    if not isinstance(content, dict):
        raise invalid_data(expected_data_type="jsonobject")
    return content


def body_list(content: dict[str, Any], name: str) -> list[Any]:
    """A filled list within the body."""
    if name not in content:
        raise ApiError(400, "MANDATORY_NOT_FOUND", "required field not found", {"api_name": name})
    items = content[name]
    if not isinstance(items, list) or not items:
        raise invalid_data(api_name=name, expected_data_type="jsonarray")
    return items


def module_named(store: Store, name: str) -> Module:
    """The module of a path."""
    found = store.modules.get(name)
    if found is None:
        raise ApiError(
            400,
            "INVALID_MODULE",
            "the module name given seems to be invalid",
            {"resource_path_index": 0},
        )
    return found
