"""JSON of unknown origin as plain values: whatever is wrong with the text is one kind of error."""

import json
from typing import Any

from raydet.exceptions import DataError


def parse_json(data: bytes) -> Any:
    """Return the values of a JSON file; NaN and infinities are let through, to be refused where they stand.

    Raises:
        DataError: it is not UTF-8, no JSON, or nested too deep.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text at byte {error.start}", rule="ANN-E02") from None
    except RecursionError:
        raise DataError("is nested too deep", rule="ANN-E02") from None
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", rule="ANN-E02") from None
