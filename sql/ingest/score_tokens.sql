-- Drawn labels (temporary table score_labels) -> the $tokens readable tokens that a firing promotes most, and as many that
-- firings of other neurons of the layer promote. A firing is of the sign with the larger activation.
WITH sizes AS (
    SELECT greatest(1, max(try_cast(value AS INTEGER)) // 40) AS step FROM metadata WHERE key = 'neurons_per_layer'
), peaks AS (
    SELECT layer, neuron, CASE WHEN -min > max THEN -1 ELSE 1 END AS side FROM neuron_stats
    WHERE layer IN (SELECT layer FROM score_labels)
), promoted AS (
    SELECT l.layer, l.neuron, l.token_id, l.rank, trim(v.token) AS token
    FROM logit_lens l JOIN vocab v USING (token_id) LEFT JOIN peaks p USING (layer, neuron)
    WHERE l.layer IN (SELECT layer FROM score_labels) AND l.polarity = coalesce(p.side, 1) AND trim(v.token) <> ''
), own AS (
    SELECT s.id, true AS promotes, p.token, min(p.rank) AS place FROM promoted p
    JOIN score_labels s USING (layer, neuron) GROUP BY s.id, p.token
), others AS (
    SELECT DISTINCT s.id, p.token, md5(concat_ws('|', $seed, s.id, p.token)) AS draw
    FROM promoted p JOIN score_labels s ON s.layer = p.layer AND s.neuron <> p.neuron, sizes
    WHERE p.neuron % step = $seed % step AND (s.id, p.token) NOT IN (SELECT id, token FROM own)
)
SELECT id, promotes, token, place FROM own
UNION ALL
SELECT id, false, token, row_number() OVER (PARTITION BY id ORDER BY draw) AS place FROM others
QUALIFY place <= $tokens
ORDER BY id, promotes DESC, place, token
