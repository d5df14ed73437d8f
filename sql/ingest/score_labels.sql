-- Labels that a test may take -> $sample of them, drawn by $seed, each with labels of ten other neurons of its layer for
-- comparison. $passes: passes that the test is about. $source: 'rule' also means 'rule:...'; NULL = any.
WITH possible AS (
    SELECT DISTINCT layer, neuron, "pass", polarity, source, run, label,
           md5(concat_ws('|', $seed, layer, neuron, "pass", polarity, source, run, label)) AS draw
    FROM labels
    WHERE status = 'ok' AND label IS NOT NULL AND list_contains($passes, "pass")
          AND ($source IS NULL OR source = $source OR starts_with(source, $source || ':'))
          AND layer BETWEEN $first AND $last
), drawn AS (
    SELECT *, row_number() OVER (ORDER BY draw) AS id FROM possible QUALIFY id <= $sample
), pool AS (
    SELECT layer, neuron, "pass", label, draw FROM possible
    QUALIFY row_number() OVER (PARTITION BY layer, "pass" ORDER BY draw DESC) <= 40
), others AS (
    SELECT d.id, arg_min(p.label, md5(concat(d.draw, p.draw)), 10) AS others
    FROM drawn d JOIN pool p ON p.layer = d.layer AND p."pass" = d."pass" AND p.neuron <> d.neuron AND p.label <> d.label
    GROUP BY d.id
)
SELECT d.id, d.layer, d.neuron, d."pass", d.polarity, d.source, d.run, d.label, coalesce(o.others, []) AS others
FROM drawn d LEFT JOIN others o USING (id)
ORDER BY d.id
