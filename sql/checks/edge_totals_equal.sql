-- edge_totals counts and adds up the edges of every neuron that has any.
WITH counted AS (
    SELECT
        id, sum(is_out)::BIGINT AS n_out, count(*) - n_out AS n_in, sum(weight_abs_sum) FILTER (is_out = 1) AS weight_out,
        sum(weight_abs_sum) FILTER (is_out = 0) AS weight_in, sum(weight_sum ** 2) FILTER (is_out = 1) AS squares_out,
        sum(weight_sum ** 2) FILTER (is_out = 0) AS squares_in
    FROM (
        SELECT src AS id, 1 AS is_out, weight_abs_sum::DOUBLE AS weight_abs_sum, weight_sum::DOUBLE AS weight_sum FROM edges
        UNION ALL SELECT tgt, 0, weight_abs_sum, weight_sum FROM edges
    )
    GROUP BY id
)
SELECT id, t.n_out, c.n_out AS counted_out, t.n_in, c.n_in AS counted_in
FROM edge_totals AS t FULL JOIN counted AS c USING (id)
WHERE t.n_out IS DISTINCT FROM c.n_out OR t.n_in IS DISTINCT FROM c.n_in
   OR abs(t.weight_out - coalesce(c.weight_out, 0)) > 1e-9 * coalesce(c.weight_out, 0) + 1e-15
   OR abs(t.weight_in - coalesce(c.weight_in, 0)) > 1e-9 * coalesce(c.weight_in, 0) + 1e-15
   OR abs(t.norm_out - sqrt(coalesce(c.squares_out, 0))) > 1e-6 * sqrt(coalesce(c.squares_out, 0)) + 1e-15
   OR abs(t.norm_in - sqrt(coalesce(c.squares_in, 0))) > 1e-6 * sqrt(coalesce(c.squares_in, 0)) + 1e-15
   OR isnan(t.norm_out) OR isnan(t.norm_in)
ORDER BY id;
