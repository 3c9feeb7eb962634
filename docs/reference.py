"""Write what is made from the settings classes: the JSON Schema, and the tables of a page.

Run from the top of the repository after changing a setting: `python docs/reference.py`.
A test fails while one of them is not current.
"""

# ruff: noqa: INP001 - a script beside the pages it writes

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.config.reference import json_schema, tables

DOCS = Path(__file__).parent
SCHEMA = DOCS / "sluicegate.schema.json"
PAGE = DOCS / "configuration.md"
TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def schema_text() -> str:
    """The schema as it is kept in the repository."""
    return json.dumps(json_schema(), indent=2) + "\n"


def with_tables(page: str) -> str:
    """A page with the tables between its marks made anew."""
    made = tables()
    return TABLE.sub(lambda mark: f"{mark[1]}\n{made[mark[2]]}\n\n{mark[3]}", page)


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
