"""Photos as a command is given them."""

from __future__ import annotations

import pytest

from sdic_plugin.errors import SDICError
from sdic_plugin.photos.inputs import parse_eyes


def test_parse_eyes():
    assert parse_eyes("1,2.5, 3 ,4e1") == (1.0, 2.5, 3.0, 40.0)
    for text in ("", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,nan", "1 2 3 4"):
        with pytest.raises(SDICError, match="x1,y1,x2,y2"):
            parse_eyes(text)
