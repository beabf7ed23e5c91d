"""What is hidden in text for people, and what is left."""

from __future__ import annotations

import io

import pytest

from reproduce.text.redaction import RedactingStream, redacted

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "hunter22",
    "AWS_SECRET_ACCESS_KEY": "hunter22+more",
    "RAY_AUTH_TOKEN": "0123456789abcdef",
    "SHORT_TOKEN": "none",
    "MAX_TOKENS": "128000",
    "TOKENIZERS_PARALLELISM": "disabled",
    "AWS_ACCESS_KEY_ID": "identity",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:pw@server:5000/x is", "at http://***@server:5000/x is"),
        ("postgresql+psycopg2://me:p@w@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("'https://token@server'", "'https://***@server'"),
        ("mysql://db/x?user=me&password=pw&ssl=1", "mysql://db/x?user=me&password=***&ssl=1"),
        ("http://server/a@b, me@example.org", "http://server/a@b, me@example.org"),
        ('f"http://{user}:{password}@{host}"', 'f"http://{user}:{password}@{host}"'),
        ("first hunter22\nthen hunter22+more", "first ***\nthen ***"),
        ("token 0123456789abcdef", "token ***"),
        ("password=hunter22%2Bmore", "password=***"),
        ("{'Authorization': 'Basic bWU6cHc='}", "{'Authorization': 'Basic ***'}"),
        ("authorization: Bearer ab.c-d", "authorization: Bearer ***"),
        ("Basic authentication failed", "Basic authentication failed"),
        ("none of 128000 images, disabled identity", "none of 128000 images, disabled identity"),
    ],
)
def test_secrets_are_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text, SECRETS) == shown
    assert redacted(shown, SECRETS) == shown


def test_a_stream_hides_a_secret_that_comes_in_pieces_and_keeps_the_last_line() -> None:
    target = io.StringIO()
    stream = RedactingStream(target)
    stream.write("http://me:pass")
    stream.write("word@server\nand then http://")
    assert target.getvalue() == "http://***@server\n"
    stream.write("me:pw@server")
    stream.close()
    stream.close()
    assert target.getvalue() == "http://***@server\nand then http://***@server"
