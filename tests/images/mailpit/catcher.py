"""Takes every mail on port 1025, and lists them on port 8025 as Mailpit does: ``/api/v1/messages``, newest first."""

from __future__ import annotations

import json
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

MAILS: list[dict[str, Any]] = []


class Keep:
    """Keeps what comes in memory."""

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        message = message_from_bytes(envelope.content)
        recipients = [{"Address": each} for each in envelope.rcpt_tos]
        MAILS.insert(0, {"Subject": str(message["Subject"]), "To": recipients})
        return "250 kept"


class Lists(BaseHTTPRequestHandler):
    """Answers with the list."""

    def do_GET(self) -> None:
        known = self.path == "/api/v1/messages"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if known:
            self.wfile.write(json.dumps({"messages": MAILS, "total": len(MAILS)}).encode())


if __name__ == "__main__":
    Controller(Keep(), hostname="0.0.0.0", port=1025).start()
    ThreadingHTTPServer(("0.0.0.0", 8025), Lists).serve_forever()
