-- Members of an assignment file (temporary table assignments_read: place, key, path, flow, membership, and what the
-- file says of the path: depth, said = top.sub.subsub) -> one row each: its neuron, its module path with dots, and its
-- fault if it has one.
WITH named AS (
    SELECT * EXCLUDE (path), trim(replace(path, ':', '.'), '. ') AS path,
           CASE WHEN regexp_full_match(key, '\s*\d+\s*') THEN try_cast(key AS BIGINT) // $d_mlp
                ELSE try_cast(regexp_extract(key, '^\s*[Ll]?(\d+)\s*[/_:,]\s*[Nn]?(\d+)(_\d+)?\s*$', 1) AS BIGINT) END AS layer,
           CASE WHEN regexp_full_match(key, '\s*\d+\s*') THEN try_cast(key AS BIGINT) % $d_mlp
                ELSE try_cast(regexp_extract(key, '^\s*[Ll]?(\d+)\s*[/_:,]\s*[Nn]?(\d+)(_\d+)?\s*$', 2) AS BIGINT) END AS neuron
    FROM assignments_read
), read AS (
    SELECT *, CASE WHEN layer IS NULL OR neuron IS NULL THEN 'with an unreadable neuron id'
            WHEN layer >= $layers OR neuron >= $d_mlp THEN 'out of the model''s range'
            WHEN NOT coalesce(regexp_full_match(path, '\d{1,9}(\.\d{1,9})*'), false) THEN 'without a module path'
       END AS fault
    FROM named
)
SELECT place, layer, neuron, path, depth, said, membership, CASE WHEN isfinite(flow) THEN flow END AS flow,
       CASE WHEN fault IS NULL AND row_number() OVER (PARTITION BY layer, neuron, fault ORDER BY place) > 1
            THEN 'for a neuron that has an earlier one' ELSE fault END AS fault
FROM read
