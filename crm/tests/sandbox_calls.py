"""Plain calls to the sandbox's API, for its own tests: no client of ours in between."""

from typing import Any

import requests

from crm.tests.sandbox_process import CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Sandbox


def mint(sandbox: Sandbox, **changes: str) -> dict[str, Any]:
    """The token endpoint's answer to a refresh, with some fields changed."""
    form = {
        "grant_type": "refresh_token",
        "refresh_token": REFRESH_TOKEN,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        **changes,
    }
    answer = requests.post(f"{sandbox.url}/oauth/v2/token", data=form, timeout=10)
    assert answer.status_code == 200
    return answer.json()


class Crm:
    """A signed-in caller."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = requests.Session()
        self.http.trust_env = False
        self.sign_in()

    def sign_in(self) -> None:
        token = mint(self.sandbox)["access_token"]
        self.http.headers["Authorization"] = f"Zoho-oauthtoken {token}"

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        more.setdefault("timeout", 20)
        return self.http.request(method, self.sandbox.url + path, **more)

    def get(self, path: str, headers: dict[str, str] | None = None, **params: Any):
        return self.call("GET", f"/crm/v8/{path}", params=params, headers=headers)

    def coql(self, query: str) -> requests.Response:
        return self.call("POST", "/crm/v8/coql", json={"select_query": query})

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query that must be accepted."""
        answer = self.coql(query)
        assert answer.status_code in (200, 204), answer.text
        return answer.json()["data"] if answer.status_code == 200 else []

    def write(self, method: str, path: str, data: list[Any], **more: Any) -> requests.Response:
        headers = more.pop("headers", None)
        return self.call(method, f"/crm/v8/{path}", json={"data": data, **more}, headers=headers)

    def record(self, module: str, record_id: str) -> dict[str, Any] | None:
        answer = self.get(f"{module}/{record_id}")
        return answer.json()["data"][0] if answer.status_code == 200 else None

    def all_pages(self, module: str, **params: Any) -> list[dict[str, Any]]:
        """Every record by page tokens."""
        records: list[dict[str, Any]] = []
        while True:
            answer = self.get(module, **params)
            if answer.status_code == 204:
                return records
            assert answer.status_code == 200, answer.text
            content = answer.json()
            records += content["data"]
            if not content["info"]["more_records"]:
                return records
            params["page_token"] = content["info"]["next_page_token"]
