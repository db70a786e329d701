"""The org's users changing: who leaves, who comes back."""

import json
from dataclasses import replace

from crm.sandbox.store import Change, Transaction


def set_status(tx: Transaction, wanted: str, status: str) -> bool:
    """Make the user of that id or mail active, inactive or deleted; False if there is none."""
    for user_id, text in tx.sql.execute("select id, definition from users").fetchall():
        user = json.loads(text)
        if wanted in (user["id"], user["email"]):
            user["status"], user["Modified_Time"] = status, tx.now
            tx.sql.execute(
                "update users set status=?, definition=?, modified=? where id=?",
                (status, json.dumps(user, ensure_ascii=False), tx.now, user_id),
            )
            operation = "delete" if status == "deleted" else "update"
            change = Change("Users", operation, (user_id,))
            if operation == "update":
                value = {"status": json.dumps(status)}
                change = replace(change, fields={user_id: ("status",)}, values={user_id: value})
            tx.changes.append(change)
            return True
    return False
