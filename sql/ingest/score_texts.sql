-- Drawn labels (temporary table score_labels) -> texts of documents that are kept for scores: up to $texts that fire the
-- neuron (of the label's sign; 0 = both) and as many that fire others of its layer and are none of its own exemplars.
-- place = index of the strongest position in token_ids and activations, from 0.
WITH kept AS (
    SELECT context_id, token_ids FROM contexts WHERE md5(concat(corpus, ' ', document)) < '8'
), sizes AS (
    SELECT greatest(1, max(try_cast(value AS INTEGER)) // 40) AS step FROM metadata WHERE key = 'neurons_per_layer'
), own AS (
    SELECT s.id, e.* FROM exemplars e
    JOIN score_labels s ON s.layer = e.layer AND s.neuron = e.neuron AND (s.polarity = 0 OR s.polarity = e.polarity)
), firing AS (
    SELECT o.id, true AS fires, o.context_id, o.position, o.window_start, o."window" AS seen, o.polarity,
           row_number() OVER (PARTITION BY o.id ORDER BY md5(concat_ws('|', $seed, o.id, o.context_id, o.position, o.polarity))) AS place
    FROM own o WHERE o.context_id IN (SELECT context_id FROM kept)
    QUALIFY place <= $texts
), pool AS (
    SELECT e.layer, e.neuron, e.context_id, e.position, e.window_start, e."window" AS seen, e.polarity
    FROM exemplars e, sizes
    WHERE e.layer IN (SELECT layer FROM score_labels) AND e.neuron % step = $seed % step
          AND e.context_id IN (SELECT context_id FROM kept)
), silent AS (
    SELECT s.id, false AS fires, p.context_id, p.position, p.window_start, p.seen, p.polarity,
           row_number() OVER (PARTITION BY s.id ORDER BY md5(concat_ws('|', $seed, s.id, p.neuron, p.context_id, p.position, p.polarity))) AS place
    FROM pool p JOIN score_labels s ON s.layer = p.layer AND s.neuron <> p.neuron
    WHERE (s.id, p.context_id) NOT IN (SELECT id, context_id FROM own)
    QUALIFY place <= $texts
)
SELECT t.id, t.fires, t.context_id, t.position, t.position - coalesce(t.window_start, 0) AS place, t.polarity,
       k.token_ids[coalesce(t.window_start, 0) + 1 : coalesce(t.window_start, 0) + len(t.seen)] AS token_ids,
       t.seen AS activations
FROM (SELECT * FROM firing UNION ALL SELECT * FROM silent) t JOIN kept k USING (context_id)
ORDER BY t.id, t.fires DESC, t.place, t.context_id, t.position, t.polarity
