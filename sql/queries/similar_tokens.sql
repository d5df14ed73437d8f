-- The neurons that fire on the same tokens as a neuron or a set of neurons, with the same strength.
-- of_ids: packed ids; the profile of several is their sum. first_layer, last_layer: only neurons of these layers; NULL for
-- any. max_rows: limit; NULL for all that share a token.
-- A profile holds, for each token and sign of the activation, the sum of |activation| over the strong firings
-- (token_stats). cosine: of the two profiles. jaccard: shared (token, sign) / those of either. strongest: the three with
-- the largest product. Ordered by the cosine, rounded to 12 digits so that threads change no order. Exact: reads all
-- profiles.
-- Try: FROM similar_tokens([0])
CREATE OR REPLACE MACRO similar_tokens(of_ids, first_layer := NULL, last_layer := NULL, max_rows := 20) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT layer, neuron FROM neurons WHERE feature_id IN (SELECT unnest(of_ids)::BIGINT)
), fields AS MATERIALIZED (
    SELECT t.polarity, t.token_id, sum(abs(t.sum)::DOUBLE ORDER BY t.layer, t.neuron) AS w
    FROM token_stats AS t JOIN chosen AS c ON c.layer = t.layer AND c.neuron = t.neuron
    GROUP BY t.polarity, t.token_id
), norm AS MATERIALIZED (
    SELECT sqrt(sum(w * w ORDER BY polarity, token_id)) AS x, count(*) AS n FROM fields
), scores AS (
    SELECT
        t.layer, t.neuron, sum(abs(t.sum) * f.w) AS along, sum(t.sum::DOUBLE * t.sum) AS squares, count(*) AS n_tokens,
        count(f.w) AS shared, arg_max(t.polarity * (t.token_id + 1), (abs(t.sum) * f.w, -t.token_id), 3)
            FILTER (f.w IS NOT NULL) AS strongest
    FROM token_stats AS t LEFT JOIN fields AS f ON f.polarity = t.polarity AND f.token_id = t.token_id
    WHERE t.layer >= coalesce(first_layer, 0) AND t.layer <= coalesce(last_layer, 1000000)
    GROUP BY t.layer, t.neuron
    HAVING count(f.w) > 0
), best AS MATERIALIZED (
    SELECT s.*, round(along / nullif(sqrt(squares) * (SELECT x FROM norm), 0), 12) AS cosine
    FROM scores AS s ANTI JOIN chosen AS c ON c.layer = s.layer AND c.neuron = s.neuron
    ORDER BY cosine DESC NULLS LAST, s.layer, s.neuron LIMIT max_rows
), named AS (
    SELECT s.layer, s.neuron, list(v.token || CASE WHEN s.code < 0 THEN ' (-)' ELSE ' (+)' END ORDER BY s.place) AS names
    FROM (
        SELECT layer, neuron, unnest(strongest) AS code, unnest(range(len(strongest))) AS place FROM best
    ) AS s JOIN vocab AS v ON v.token_id = abs(s.code) - 1
    GROUP BY s.layer, s.neuron
)
SELECT
    b.layer, b.neuron, n.label, n.cluster_path, b.cosine, b.shared / (b.n_tokens + (SELECT n FROM norm) - b.shared) AS jaccard,
    b.shared, names.names AS strongest, b.n_tokens, n.feature_id AS id
FROM best AS b
LEFT JOIN named AS names ON names.layer = b.layer AND names.neuron = b.neuron
LEFT JOIN neurons AS n ON n.layer = b.layer AND n.neuron = b.neuron
ORDER BY b.cosine DESC NULLS LAST, b.layer, b.neuron;
