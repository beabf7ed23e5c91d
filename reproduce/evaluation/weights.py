"""Reads state dicts from files that torch has written, and finds damage in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from reproduce.errors import UserError
from reproduce.training.checkpoint import UNREADABLE


class WeightsError(UserError):
    """Raised for a file that holds no state dict or is damaged. The message is the end of a sentence on the file."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU, and compare the parts of its file with their checksums, which torch does not.

    Args:
        path: The file, which exists. Files that torch wrote before version 1.6 have no checksums.

    Raises:
        WeightsError: The file holds no state dict, or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (first_bad := archive.testzip()) is not None:
                    raise WeightsError(f"damaged: {first_bad} within it does not have its CRC-32")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except (*UNREADABLE, AttributeError, TypeError) as error:
        raise WeightsError("not a state dict saved by torch.save, or damaged") from error
    except OSError as error:  # zipfile asks for impossible places of some damaged files
        raise WeightsError(f"cannot be read ({error.strerror}); is it a state dict saved by torch.save?") from error
    if not isinstance(content, dict):
        raise WeightsError(f"a {type(content).__name__}, not a state dict")
    if others := [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        raise WeightsError(f"not a state dict: {others[0]!r} names no tensor; save the state dict alone")
    return content
