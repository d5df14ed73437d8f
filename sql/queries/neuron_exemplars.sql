-- The texts on which one neuron fires most strongly, with the token at the position marked ⟦so⟧.
-- of_layer, of_neuron: the neuron. of_polarity: 1, -1, or NULL for both. max_rows: texts of each sign; NULL for all.
-- of_stratum: 0 = the strongest; 1.. = the samples inside quantile strata (weakest first); NULL for all strata.
-- tokens and activations are those of the shown window, in step; position counts from the start of the context.
-- Try: FROM neuron_exemplars(1, 2, max_rows := 2)
CREATE OR REPLACE MACRO neuron_exemplars(of_layer, of_neuron, of_polarity := NULL, max_rows := 10, of_stratum := 0)
AS TABLE
WITH chosen AS (
    SELECT e.*, c.document, c.corpus, c.token_ids
    FROM exemplars AS e
    LEFT JOIN contexts AS c ON c.context_id = e.context_id
    WHERE e.layer = of_layer AND e.neuron = of_neuron
      AND (of_polarity IS NULL OR e.polarity = of_polarity)
      AND (of_stratum IS NULL OR e.stratum = of_stratum)
      AND (max_rows IS NULL OR e.rank < max_rows)
), placed AS (
    SELECT
        polarity, stratum, rank, position, place,
        token_ids[place + 1] AS token_id
    FROM chosen,
        unnest(range(coalesce(window_start, 0), coalesce(window_start + len("window"), len(token_ids)))) AS u(place)
    WHERE place < len(token_ids)
), decoded AS (
    SELECT
        p.polarity, p.stratum, p.rank,
        list(coalesce(v.token, '<' || p.token_id || '>') ORDER BY p.place) AS tokens,
        string_agg(
            CASE WHEN p.place = p.position THEN '⟦' || coalesce(v.token, '<' || p.token_id || '>') || '⟧'
                 ELSE coalesce(v.token, '<' || p.token_id || '>') END, '' ORDER BY p.place) AS context_text,
        any_value(v.token) FILTER (p.place = p.position) AS token
    FROM placed AS p
    LEFT JOIN vocab AS v ON v.token_id = p.token_id
    GROUP BY p.polarity, p.stratum, p.rank
)
SELECT
    c.polarity, c.stratum, c.rank, c.activation, d.token, d.context_text, d.tokens, c."window" AS activations,
    c.context_id, c.document, c.position, c.window_start
FROM chosen AS c
LEFT JOIN decoded AS d ON d.polarity = c.polarity AND d.stratum = c.stratum AND d.rank = c.rank
ORDER BY c.polarity DESC, c.stratum, c.rank;
