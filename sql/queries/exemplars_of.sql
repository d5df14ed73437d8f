-- Exemplar texts of a set of neurons, the strongest first, on request only those at given tokens.
-- of_ids: packed ids. of_tokens: texts matched as in matching_tokens; NULL for any token.
-- of_polarity: 1, -1, or NULL for both. max_rows: limit; NULL for all.
-- All strata take part. context_text marks the token at the position ⟦so⟧.
-- Try: FROM exemplars_of([0, 1], of_tokens := ['dog'], max_rows := 3)
CREATE OR REPLACE MACRO exemplars_of(of_ids, of_tokens := NULL, of_polarity := NULL, max_rows := 20) AS TABLE
WITH chosen AS (
    SELECT e.*, n.label, c.document, c.token_ids, v.token
    FROM exemplars AS e
    JOIN neurons AS n ON n.layer = e.layer AND n.neuron = e.neuron
    LEFT JOIN contexts AS c ON c.context_id = e.context_id
    LEFT JOIN vocab AS v ON v.token_id = c.token_ids[e.position + 1]
    WHERE n.feature_id IN (SELECT unnest(of_ids)::BIGINT)
      AND (of_polarity IS NULL OR e.polarity = of_polarity)
      AND (of_tokens IS NULL OR v.token IN (SELECT unnest(of_tokens)::VARCHAR)
           OR (trim(v.token, ' ') <> '' AND trim(v.token, ' ') IN (SELECT trim(unnest(of_tokens)::VARCHAR, ' '))))
    ORDER BY abs(e.activation) DESC, e.layer, e.neuron, e.polarity, e.stratum, e.rank
    LIMIT max_rows
), placed AS (
    SELECT layer, neuron, polarity, stratum, rank, position, place, token_ids[place + 1] AS token_id
    FROM chosen,
        unnest(range(coalesce(window_start, 0), coalesce(window_start + len("window"), len(token_ids)))) AS u(place)
    WHERE place < len(token_ids)
), decoded AS (
    SELECT
        p.layer, p.neuron, p.polarity, p.stratum, p.rank,
        string_agg(
            CASE WHEN p.place = p.position THEN '⟦' || coalesce(v.token, '<' || p.token_id || '>') || '⟧'
                 ELSE coalesce(v.token, '<' || p.token_id || '>') END, '' ORDER BY p.place) AS context_text
    FROM placed AS p
    LEFT JOIN vocab AS v ON v.token_id = p.token_id
    GROUP BY p.layer, p.neuron, p.polarity, p.stratum, p.rank
)
SELECT
    c.layer, c.neuron, c.label, c.polarity, c.stratum, c.rank, c.activation, c.token, d.context_text,
    c.context_id, c.document, c.position
FROM chosen AS c
LEFT JOIN decoded AS d ON d.layer = c.layer AND d.neuron = c.neuron AND d.polarity = c.polarity
    AND d.stratum = c.stratum AND d.rank = c.rank
ORDER BY abs(c.activation) DESC, c.layer, c.neuron, c.polarity, c.stratum, c.rank;
