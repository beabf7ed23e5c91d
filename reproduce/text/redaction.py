"""Hides passwords and tokens in text that is printed, logged or recorded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"

SECRET_NAME = r"\w*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|SECRET_KEY|CREDENTIALS?)"
"""Pattern of the names of environment variables, and of parameters of a URL, whose values are secrets."""

SHORTEST_SECRET = 6
"""Length below which the value of a variable is not hidden: what is shorter is found in words that are no secret."""

_SECRET_VARIABLE = re.compile(SECRET_NAME, re.IGNORECASE)
_USER_INFO = re.compile(r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/?#"'<>{}\\\[\]]*@""", re.IGNORECASE)
_PARAMETER = re.compile(rf"""(?P<name>[?&]{SECRET_NAME}=)[^\s&#"'<>]+""", re.IGNORECASE)


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Replace the secrets in a text by `***`.

    Secrets are the user information of every URL (`http://***@host`), the parameters of a URL whose names are those of
    secrets, and the values of the environment variables whose names are, such as MLFLOW_TRACKING_PASSWORD,
    AWS_SECRET_ACCESS_KEY and RAY_AUTH_TOKEN.

    Args:
        text: A text of one or more lines. A result of this function is not changed by it.
        environment: The environment variables.
    """
    text = _PARAMETER.sub(rf"\g<name>{HIDDEN}", _USER_INFO.sub(rf"\g<scheme>{HIDDEN}@", text))
    values = {value for name, value in environment.items() if _SECRET_VARIABLE.fullmatch(name)}
    for value in sorted(values, key=len, reverse=True):  # one may be a part of another
        if len(value) >= SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    return text
