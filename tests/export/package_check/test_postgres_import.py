"""A real Postgres, with tables as Neuronpedia has them, takes the valid rows and fails on what the rules say it does.

An oracle that shares no code with the check: rows go in by one INSERT a file, with the columns of its first line and
the casts of jsonb_to_recordset, skipping what conflicts. Needs the server's programs (initdb); without, it is skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broken_packages import CASES
from planted_packages import SOURCE, Files, bulk

LISTS = {
    "double precision[]": (
        "vector topkCosSimValues neuron_alignment_values neuron_alignment_l1 correlated_neurons_pearson "
        "correlated_neurons_l1 correlated_features_pearson correlated_features_l1 neg_values pos_values "
        "freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights "
        "logits_hist_data_bar_values decoder_weights_dist"
    ),
    "integer[]": "topkCosSimIndices neuron_alignment_indices correlated_neurons_indices correlated_features_indices",
    "text[]": "neg_str pos_str",
}
PLACE = {"modelId": "text NOT NULL", "layer": "text NOT NULL", "index": "text NOT NULL"}
STAMP = "timestamp(3) NOT NULL DEFAULT now()"
COLUMNS = {
    "features": {
        **PLACE, "sourceSetName": "text", "creatorId": "text", "maxActApprox": "double precision",
        "hasVector": "boolean NOT NULL DEFAULT false", "vectorLabel": "text", "hookName": "text", "createdAt": STAMP,
        "frac_nonzero": "double precision NOT NULL DEFAULT 0",
        **{name: kind for kind, names in LISTS.items() for name in names.split()},
    },
    "activations": {
        "id": "text PRIMARY KEY", **PLACE, "creatorId": "text NOT NULL", "maxValue": "double precision NOT NULL",
        "minValue": "double precision NOT NULL", "maxValueTokenIndex": "integer NOT NULL", "tokens": "text[]",
        "values": "double precision[]", "dataIndex": "text", "dataSource": "text", "binMin": "double precision",
        "binMax": "double precision", "binContains": "double precision", "qualifyingTokenIndex": "integer",
        "createdAt": STAMP,
    },
    "explanations": {
        "id": "text PRIMARY KEY", **PLACE, "authorId": "text NOT NULL", "description": "text NOT NULL",
        "embedding": "vector256", "typeName": "text REFERENCES known", "explanationModelName": "text REFERENCES known",
        "notes": "text", "scoreV1": "double precision NOT NULL DEFAULT 0", "createdAt": STAMP, "updatedAt": STAMP,
    },
}  # fmt: skip
# what the database does; everything else it takes as it stands, and the page is wrong
FAILS = {
    "gzip-broken", "file-empty", "text-surrogate", "json-invalid", "json-nan", "json-object", "number-range",
    "field-null", "updated-null", "bulk-metadata-link", "model-id", "layer-source", "embedding-256", "type-null",
    "reference",
}  # fmt: skip
DROPS = {"index-unique", "id-unique"}
EITHER = {"text-null", "field-type"}  # by the value: \u0000 is replaced, "2.5" is cast
ROWS = [case for case in CASES if case.layout == "bulk" and case.file.endswith(".jsonl.gz")]
Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def sql() -> Iterator[Run]:
    """Runs a script in a new database of a new server without network."""
    programs = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    found = [Path(one).parent for one in programs if one]
    if not found or not shutil.which("psql"):
        pytest.skip("no Postgres here (initdb, psql): the rules are compared with it where it is installed")
    words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="pg"))

    def call(program: str, *arguments: str) -> None:
        command = [*words, str(found[0] / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        client = ["psql", "-h", str(folder), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAtX"]
        return subprocess.run(client, input=script, capture_output=True, text=True, timeout=60)

    try:
        if words:
            shutil.chown(folder, "postgres")
        call("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        call("pg_ctl", "-o", options, "-l", str(folder / "log"), "-w", "start")
    except (OSError, LookupError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"Postgres does not start here: {error}")
    try:
        made = run(tables())
        assert made.returncode == 0, made.stderr
        yield run
    finally:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def tables() -> str:
    place = 'FOREIGN KEY ("modelId", layer, index) REFERENCES features ("modelId", layer, index)'
    more = {
        "features": 'UNIQUE ("modelId", layer, index), FOREIGN KEY ("modelId", layer) REFERENCES source, '
        'FOREIGN KEY ("modelId", "sourceSetName") REFERENCES sourceset',
        "activations": place,
        "explanations": place,
    }
    script = (
        "CREATE DOMAIN vector256 AS double precision[] CHECK (value IS NULL OR array_length(value, 1) = 256);"
        "CREATE TABLE known (name text PRIMARY KEY);"
        'CREATE TABLE source ("modelId" text, id text, PRIMARY KEY ("modelId", id));'
        'CREATE TABLE sourceset ("modelId" text, name text, PRIMARY KEY ("modelId", name));'
        "INSERT INTO source VALUES ('tiny-model', '3'); INSERT INTO sourceset VALUES ('tiny-model', 'neurons');"
    )
    for name, columns in COLUMNS.items():
        listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
        script += f"CREATE TABLE {name} ({listed}, {more[name]});"
    return script


def inserts(files: Files) -> tuple[str, dict[str, int]]:
    """(one INSERT for each file, or for all of explanations; lines by table); ValueError or OSError as an importer."""
    script, many = "", dict.fromkeys(COLUMNS, 0)
    for table, columns in COLUMNS.items():
        names = sorted(name for name in files if name.startswith(f"{SOURCE}/{table}/") and name.endswith(".jsonl.gz"))
        texts = [gzip.decompress(files[name]).decode("utf-8", "replace") for name in names]
        texts = [text.replace(r"\u0000", " ").strip() for text in texts]
        for text in ["\n".join(texts)] if table == "explanations" and texts else texts:
            rows = text.split("\n")
            many[table] += len(rows)
            first = json.loads(rows[0], parse_constant=_refuse)
            there = {name: re.split(" NOT | REF| PRI", kind)[0] for name, kind in columns.items() if name in first}
            listed = ", ".join(f'"{name}"' for name in there)
            cast = ", ".join(f'"{name}" {kind}' for name, kind in there.items())
            records = f"jsonb_to_recordset($rows$[{','.join(rows)}]$rows$::jsonb) AS t({cast})"
            script += f"INSERT INTO {table} ({listed}) SELECT {listed} FROM {records} ON CONFLICT DO NOTHING;\n"
    return script, many


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def imported(run: Run, files: Files) -> str:
    """fails, drops or takes."""
    try:
        script, many = inserts(files)
    except (ValueError, OSError, EOFError):
        return "fails"
    counts = "; ".join(f"SELECT count(*) FROM {table}" for table in many)
    done = run(f"BEGIN; {script} {counts}; ROLLBACK;")
    if done.returncode:
        return "fails"
    return "takes" if [int(line) for line in done.stdout.split()] == list(many.values()) else "drops"


def test_the_valid_package_is_taken(sql: Run) -> None:
    assert imported(sql, bulk()) == "takes"


def test_broken_rows_do_what_their_rules_say(sql: Run) -> None:
    """In one test, so that the server starts once."""
    wrong = []
    for case in ROWS:
        expected = "fails" if case.rule in FAILS else "drops" if case.rule in DROPS else "takes"
        found = imported(sql, case.change(bulk()))
        if found != expected and not (case.rule in EITHER and found == "fails"):
            wrong.append((case.rule, expected, found))
    assert not wrong
    assert {case.rule for case in ROWS} >= FAILS | DROPS
