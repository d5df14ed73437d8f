-- Texts on which the neurons of one layer fire, of one half of the documents: what labels are made from and scored on.
-- of_layer: the layer. of_half: 'labels' = the half that labels are made from, 'scores' = the half kept for scoring them
-- (a hash of corpus and document decides), NULL = both. max_rows: texts of the strongest (stratum 0) of each sign.
-- max_weaker: texts of each stratum of weaker ones (1.., weakest first).
-- token_ids and activations are those of the window, in step; place = index of the strongest position in them, from 0.
-- Try: FROM layer_exemplars(0, max_rows := 2)
CREATE OR REPLACE MACRO layer_exemplars(of_layer, of_half := NULL, max_rows := 10, max_weaker := 2) AS TABLE
WITH kept AS (
    SELECT context_id, corpus, document, token_ids
    FROM contexts
    WHERE of_half IS NULL OR (md5(concat(corpus, ' ', document)) < '8') = (of_half = 'scores')
), chosen AS (
    SELECT
        e.neuron, e.polarity, e.stratum, e.rank, e.activation, e.position, k.context_id, k.corpus, k.document,
        coalesce(e.window_start, 0) AS first_place, e."window" AS seen, k.token_ids AS all_ids
    FROM exemplars AS e
    JOIN kept AS k ON k.context_id = e.context_id
    WHERE e.layer = of_layer
    QUALIFY row_number() OVER (PARTITION BY e.neuron, e.polarity, e.stratum ORDER BY e.rank)
        <= CASE WHEN e.stratum = 0 THEN max_rows ELSE max_weaker END
)
SELECT
    neuron, polarity, stratum, rank, activation, context_id, corpus, document, position,
    position - first_place AS place,
    all_ids[first_place + 1 : first_place + len(seen)] AS token_ids,
    seen[1 : len(all_ids) - first_place] AS activations
FROM chosen
ORDER BY neuron, polarity DESC, stratum, rank;
