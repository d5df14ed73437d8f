-- How many edges each neuron has and how strong they are together.
-- Sums of floats are taken in whole numbers, so they depend on no order: of 1e-18, squares of 2^-98 of the largest.
WITH scale AS (
    SELECT coalesce(nullif(max(abs(weight_sum)), 0), 1)::DOUBLE AS largest FROM edges
), sent AS (
    SELECT
        src AS id, count(*) AS n, sum(weight_abs_sum::DOUBLE::DECIMAL(38, 18))::DOUBLE AS weight,
        sum(round((weight_sum / largest) ** 2 * 316912650057057350374175801344)::HUGEINT) AS squares
    FROM edges, scale GROUP BY src
), received AS (
    SELECT
        tgt AS id, count(*) AS n, sum(weight_abs_sum::DOUBLE::DECIMAL(38, 18))::DOUBLE AS weight,
        sum(round((weight_sum / largest) ** 2 * 316912650057057350374175801344)::HUGEINT) AS squares
    FROM edges, scale GROUP BY tgt
)
SELECT
    id, coalesce(s.n, 0) AS n_out, coalesce(r.n, 0) AS n_in, coalesce(s.weight, 0) AS weight_out,
    coalesce(r.weight, 0) AS weight_in,
    coalesce(sqrt(s.squares / 316912650057057350374175801344) * largest, 0) AS norm_out,
    coalesce(sqrt(r.squares / 316912650057057350374175801344) * largest, 0) AS norm_in
FROM sent AS s FULL JOIN received AS r USING (id), scale
ORDER BY id
