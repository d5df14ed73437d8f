-- The strongest exemplars of several neurons of one layer, each with its tokens and their activations in step.
-- of_layer: the layer. of_neurons: list of its neurons. of_signs: list of 1 and -1. max_rows: exemplars of each sign.
-- token_ids and activations are those of the stored window; without a stored window they are the position alone.
-- place = index of the exemplar's position in them, from 0. token_ids is NULL when the context is not stored.
-- Try: FROM export_exemplars(0, [0, 1], [1, -1], 3)
CREATE OR REPLACE MACRO export_exemplars(of_layer, of_neurons, of_signs, max_rows) AS TABLE
WITH chosen AS (
    SELECT
        neuron, polarity, rank, activation, context_id, position,
        CASE WHEN "window" IS NULL THEN position ELSE coalesce(window_start, 0) END AS start,
        coalesce("window", [activation]) AS activations
    FROM exemplars
    WHERE layer = of_layer AND neuron BETWEEN list_min(of_neurons) AND list_max(of_neurons)
      AND neuron IN (SELECT unnest(of_neurons)) AND list_contains(of_signs, polarity)
      AND stratum = 0 AND rank < max_rows
)
SELECT
    e.neuron, e.polarity, e.rank, e.activation, e.position - e.start AS place, e.activations,
    list_slice(c.token_ids, e.start + 1, e.start + len(e.activations)) AS token_ids, c.corpus
FROM chosen AS e
LEFT JOIN contexts AS c ON c.context_id = e.context_id
ORDER BY e.neuron, e.polarity DESC, e.rank, e.context_id, e.position;
