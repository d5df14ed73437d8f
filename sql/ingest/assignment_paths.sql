-- Good members of an assignment file (temporary table assignment_lines) -> their modules as lists, mended: `mend` says
-- how, `odd` what of the file does not fit its own path. The last part of a path is the neuron's own rank in its module,
-- and falls away, where (nearly) all paths of the file differ or where the file's depth, or top, sub and subsub, name
-- one module less; a depth of one less on paths that neurons share is counted from 0 instead.
WITH good AS (
    SELECT *, string_split(path, '.') AS parts FROM assignment_lines WHERE fault IS NULL
), short AS (
    SELECT *, len(parts) AS long, depth = long - 1 AS depth_short,
           long BETWEEN 2 AND 3 AND said = array_to_string(parts[1:long - 1], '.') AS said_short
    FROM good
), file AS (
    -- A file whose depths all are the lengths of its paths says that they hold modules only.
    SELECT count(*) > 1 AND (count(DISTINCT path) = count(*) OR count(DISTINCT path) >= 0.95 * count(*)
                             AND NOT coalesce(bool_and(depth = long) AND count(depth) = count(*), false)) AS unlike,
           2 * count(DISTINCT path) FILTER (depth_short) > count(*) FILTER (depth_short) AS depth_tells,
           2 * count(DISTINCT path) FILTER (said_short) > count(*) FILTER (said_short) AS said_tells
    FROM short
), marked AS (
    SELECT *, coalesce(unlike OR depth_tells AND depth_short OR said_tells AND said_short, false) AS ranked FROM short, file
)
SELECT layer, neuron, flow, membership, CASE WHEN ranked THEN parts[1:long - 1] ELSE parts END AS parts,
       CASE WHEN ranked THEN 'path ended in the neuron''s own rank (cut off)' END AS mend,
       CASE WHEN said <> array_to_string(parts[1:least(len(string_split(said, '.')), long)], '.')
            THEN 'top, sub or subsub not of its path (the path is taken)'
            WHEN depth_short AND NOT ranked THEN 'depth counted from 0'
            WHEN depth <> long AND NOT depth_short THEN 'depth not of its path (the path is taken)' END AS odd
FROM marked
