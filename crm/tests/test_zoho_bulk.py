"""Bulk jobs as the client sees them, with answers that are odd, cut, slow, late or too big."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest

from crm.tests.odd_server import Asked, HeldTime, Odd, OddServer, answer, client_of, error
from crm.zoho.bulk import JobFailed, JobLost
from crm.zoho.errors import BadPayload, FixFields, FixRequest, ScopeMissing, Unreachable

ZIP = {"Content-Type": "application/zip"}


class Stopped(Exception):
    pass


def a_zip(rows: int = 1000) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.csv", "Id\r\n" + "".join(f"{n}\r\n" for n in range(1, rows + 1)))
    return file.getvalue()


def job(state: str, **result: Any) -> Odd:
    item: dict[str, Any] = {"id": "77", "operation": "read", "state": state}
    return answer({"data": [{**item, **({"result": result} if result else {})}], "info": {}})


def added(job_id: Any = "77") -> Odd:
    details = {"id": job_id, "operation": "read", "state": "ADDED"}
    item = {"status": "success", "code": "ADDED_SUCCESSFULLY", "details": details}
    return answer({"data": [item], "info": {}}, 201)


def download(*script: Odd, between: Any = None, **patience: Any) -> tuple[bytes, Any, OddServer]:
    file = io.BytesIO()
    with OddServer(list(script)) as server:
        client = client_of(server, HeldTime(), patience={"mint_interval_s": 0, **patience})
        client.bulk_download("77", file, between=between)
        return file.getvalue(), client, server


def test_a_job_is_asked_for_at_the_bulk_address_and_by_page_or_token() -> None:
    with OddServer([added(), added("78")]) as server:
        client = client_of(server)
        assert client.bulk_start("Deals", ["Deal_Name", "Amount"]) == "77"
        assert client.bulk_start("Deals", ["Amount"], page=2, page_token="abc") == "78"
        first, second = server.asked
    assert (first.method, first.path) == ("POST", "/crm/bulk/v8/read")
    assert first.headers["content-type"] == "application/json"
    assert first.json == {
        "query": {
            "module": {"api_name": "Deals"},
            "fields": ["Deal_Name", "Amount"],
            "page": 1,
        },
        "file_type": "csv",
    }
    assert second.json["query"]["page_token"] == "abc"
    assert "page" not in second.json["query"]


@pytest.mark.parametrize("job_id", ["../../other", "", None, "7" * 40, {"a": 1}])
def test_what_is_no_id_of_a_job_is_never_part_of_an_address(job_id: Any) -> None:
    with OddServer([added(job_id)]) as server:
        client = client_of(server, HeldTime())
        with pytest.raises(BadPayload):
            client.bulk_start("Deals", ["Amount"])
        with pytest.raises(BadPayload):
            client.bulk_job(job_id)
        assert len(server.asked) == 1


def test_states_of_a_job() -> None:
    script = [job("ADDED"), job("QUEUED"), job("IN PROGRESS"), job("SOMETHING NEW"),
              job("COMPLETED", page=1, count=200_000, more_records=True, next_page_token="t",
                  download_url="https://elsewhere.example/file"),
              job("COMPLETED", page=2, count=3, more_records=False)]  # fmt: skip
    with OddServer(list(script)) as server:
        client = client_of(server)
        found = [client.bulk_job("77") for _ in script]
    assert [one.is_done for one in found] == [False] * 4 + [True] * 2
    assert (found[4].count, found[4].more, found[4].next_token) == (200_000, True, "t")
    assert (found[5].count, found[5].more, found[5].next_token) == (3, False, None)


@pytest.mark.parametrize("said", [{}, {"more_records": None}])
@pytest.mark.parametrize(("count", "more"), [(200_000, True), (199_999, False)])
def test_a_full_file_that_does_not_say_whether_there_are_more_is_not_the_last(
    said: dict[str, Any], count: int, more: bool
) -> None:
    with OddServer([job("COMPLETED", page=1, count=count, **said)]) as server:
        assert client_of(server).bulk_job("77").more is more


def test_a_failed_job_says_why() -> None:
    failure = {"code": "INTERNAL", "message": "it broke", "details": {}, "status": "error"}
    script = [job("FAILURE", error_message=failure)]
    with OddServer(script) as server, pytest.raises(JobFailed) as failed:
        client_of(server).bulk_job("77")
    assert failed.value.message == "The CRM's bulk job failed (it broke)."
    assert failed.value.code == "INTERNAL"


def test_a_file_whose_day_is_over_is_lost_and_not_asked_for_again() -> None:
    with OddServer([error(404, "RESOURCE_NOT_FOUND")]) as server:
        client = client_of(server, HeldTime())
        with pytest.raises(JobLost):
            client.bulk_download("77", io.BytesIO())
        with pytest.raises(JobLost):
            client.bulk_job("77")
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (error(401, "OAUTH_SCOPE_MISMATCH"), ScopeMissing),
        (error(400, "INVALID_MODULE"), FixFields),
        (answer({"data": []}), BadPayload),
        (job("COMPLETED", count="many"), BadPayload),
    ],
)
def test_refusals_are_typed(odd: Odd, kind: type[Exception]) -> None:
    with OddServer([odd]) as server, pytest.raises(kind):
        client_of(server, HeldTime()).bulk_job("77")


def test_the_file_is_what_was_sent_and_its_bytes_are_counted() -> None:
    body, client, server = download(Odd(200, a_zip(), ZIP))
    assert body == a_zip()
    assert client.bytes_received == len(body)
    assert server.asked[0].path == "/crm/bulk/v8/read/77/result"
    assert server.asked[0].headers["accept"] == "*/*"


def test_the_eleventh_download_of_a_minute_waits_for_its_turn() -> None:
    time = HeldTime()
    file = io.BytesIO()
    with OddServer([error(429, "TOO_MANY_REQUESTS"), Odd(200, a_zip(), ZIP)]) as server:
        client_of(server, time).bulk_download("77", file)
    assert file.getvalue() == a_zip()
    assert sum(time.slept) > 0


@pytest.mark.parametrize("cut", [0, 1, 500, -1])
def test_row_34_a_file_that_was_cut_is_taken_again_from_its_start(cut: int) -> None:
    whole = a_zip()
    length = {**ZIP, "Content-Length": str(len(whole))}
    body, client, _ = download(
        Odd(200, whole[:cut], length, then="close"), Odd(200, whole, ZIP), tries=3
    )
    assert (body, client.retries) == (whole, 1)


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (Odd(200, b"<html>sign in</html>", {"Content-Type": "text/html"}), BadPayload),
        (answer({"status": "soon"}), BadPayload),
        (error(200, "NO_SUCH_THING"), FixRequest),
    ],
)
def test_row_33_what_is_no_file_is_never_taken_for_one(odd: Odd, kind: type[Exception]) -> None:
    file = io.BytesIO()
    with OddServer([odd]) as server, pytest.raises(kind):
        client_of(server, HeldTime()).bulk_download("77", file)
    assert file.getvalue() == b""
    if kind is BadPayload:  # something in between: asked again
        assert download(odd, Odd(200, a_zip(), ZIP))[0] == a_zip()


def test_row_37_a_file_beyond_the_cap_is_not_taken() -> None:
    file = io.BytesIO()
    with OddServer([Odd(200, a_zip(), ZIP)]) as server, pytest.raises(BadPayload):
        client_of(server, HeldTime(), patience={"max_file_bytes": 1000}).bulk_download("77", file)
    assert len(file.getvalue()) <= 1000


def test_row_36_a_file_that_drips_ends_by_its_own_deadline() -> None:
    """Longer than an ordinary answer may take, and no longer than a file may."""
    pieces = [a_zip()[:1]] * 400
    slow = Odd(200, headers={**ZIP, "Content-Length": "9000"}, pieces=pieces, pause_s=0.02)
    patience = {"exchange_s": 0.2, "download_s": 1.0, "read_s": 0.5, "tries": 1}
    with OddServer([slow]) as server, pytest.raises(Unreachable) as ended:
        client_of(server, HeldTime(), patience=patience).bulk_download("77", io.BytesIO())
    assert "no whole answer" in ended.value.message


def test_a_file_may_take_longer_than_an_ordinary_answer() -> None:
    whole = a_zip()
    pieces = [whole[at : at + 2000] for at in range(0, len(whole), 2000)]
    slow = Odd(200, headers={**ZIP, "Content-Length": str(len(whole))}, pieces=pieces, pause_s=0.15)
    body, client, _ = download(slow, exchange_s=0.2, download_s=30.0, read_s=5.0, tries=1)
    assert (body, client.retries) == (whole, 0)


def test_a_process_that_is_asked_to_stop_waits_for_no_file() -> None:
    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        download(Odd(200, a_zip(), ZIP), between=stop)


def test_the_token_is_sent_with_a_download_and_nowhere_else() -> None:
    def script(asked: Asked) -> Odd:
        return Odd(302, headers={"Location": "https://elsewhere.example/77.zip"})

    with OddServer(script) as server, pytest.raises(Exception) as refused:
        client_of(server, HeldTime()).bulk_download("77", io.BytesIO())
    assert "redirect" in str(refused.value)
    assert len(server.asked) == 1
