"""sql/README.md lists every macro with its columns and every check; its tables are made from the files.

After a change: ATLAS_WRITE_DOCS=1 pytest tests/sql/test_readme.py
"""

import os
import re
from pathlib import Path

from synthetic import small  # noqa: F401

from atlas.store.connection import open_reader
from atlas.store.sqlfiles import example, header, sql_files, sql_folder

MARK = "<!-- made from the files by tests/sql/test_readme.py -->\n"


def reference(atlas_file: Path) -> str:
    con = open_reader(atlas_file)
    parts = ["## Queries\n"]
    for path in sql_files("queries"):
        text = path.read_text(encoding="utf-8")
        lines = [line for line in header(text) if not line.startswith("Try:")]
        signature = re.search(r"MACRO (\w+\s*\([^)]*\))", text)
        assert signature
        rows = con.execute(f"DESCRIBE {example(text)}").fetchall()
        columns = ", ".join(f"`{row[0]}`" for row in rows)
        parts.append(
            f"### {path.stem}\n{' '.join(lines)}\n\n```sql\n{' '.join(signature[1].split())}\n{example(text)};\n```\n"
            f"Columns: {columns}\n"
        )
    parts.append(
        "## Two atlases\n\nOver the schemas `a` and `b` of two attached files (`atlas diff`); not stored in a file.\n"
    )
    for path in sql_files("diff"):
        text = path.read_text(encoding="utf-8")
        signature = re.search(r"MACRO (\w+\s*\([^)]*\))", text)
        assert signature
        lines = [line for line in header(text) if not line.startswith("Try:")]
        parts.append(
            f"### {path.stem}\n{' '.join(lines)}\n\n```sql\n{' '.join(signature[1].split())}\n{example(text)};\n```\n"
        )
    parts.append("## Checks\n\n| check | asserts |\n|---|---|")
    parts += [f"| `{p.stem}` | {' '.join(header(p.read_text(encoding='utf-8'))).replace('|', chr(92) + '|')} |"
              for p in sql_files("checks")]  # fmt: skip
    return "\n".join(parts) + "\n"


def test_the_readme_is_what_the_files_say(small: Path) -> None:  # noqa: F811
    readme = sql_folder() / "README.md"
    before, _, _ = readme.read_text(encoding="utf-8").partition(MARK)
    expected = before + MARK + reference(small)
    if os.environ.get("ATLAS_WRITE_DOCS"):
        readme.write_text(expected, encoding="utf-8")
    assert readme.read_text(encoding="utf-8") == expected
