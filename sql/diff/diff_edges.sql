-- Every edge of atlas a or atlas b, compared: gained (only in b), lost (only in a), flipped (other sign), changed, same.
-- Both files are attached, as a and b:  ATTACH 'A.duckdb' AS a (READ_ONLY); ATTACH 'B.duckdb' AS b (READ_ONLY);
-- of_first_layer, of_last_layer: layers of the sources; NULL for all. A range at a time keeps the join small: 100 bytes
-- an edge of the range. exposure_a, exposure_b: graphs of each side (observations when by_count); NULL = no rates.
-- by_count: rates are of observations, not of graphs. cut_a, cut_b: metadata min_edge_count of each side.
-- weight_floors, rate_floors, delta_floors: what sampling alone reaches, by stratum from 0; NULL = nothing is judged.
-- everything: also rows that are not beyond their floor.
-- z = Welch's t of the means from the stored sums, df = its degrees of freedom (Welch-Satterthwaite). A side of one
-- observation has no variance and takes the other's; with one on both sides, or unknown squares, z is NULL and no_z says
-- why. The sum of squared deviations is at least 2^-22 of the sum of squares, to which FLOAT sums are exact.
-- rate_z = how much more often b has the edge: hypergeometric (Fisher's null), normal with continuity correction. The
-- side without the edge has 0 to cut - 1 of it (below_cut: the edge may only have fallen below the cut), and the number
-- nearest to equal rates is taken. score = what is judged, as a normal deviate: rate_z of gained and lost, else z by
-- Wallace's formula sqrt(df ln(1 + z^2/df)) (8 df + 1)/(8 df + 3), which is low (careful) for df = 1.
-- stratum = floor(log2 n), n = the smaller count, of gained and lost the only one. excess = |score| / floor, without z
-- |delta| / delta_floor. Observations count as independent; those of one graph are not: take floors from two halves.
-- In no order, for sorting all edges takes longer than comparing them: ORDER BY excess DESC, abs(score) DESC, src, tgt.
-- src and tgt = feature_id of a.neurons and b.neurons, which have the labels.
-- Try: FROM diff_edges(exposure_a := 3, exposure_b := 3) ORDER BY abs(score) DESC, src, tgt LIMIT 5
CREATE OR REPLACE MACRO diff_edges(
    of_first_layer := NULL, of_last_layer := NULL, exposure_a := NULL, exposure_b := NULL, by_count := false,
    cut_a := 1, cut_b := 1, weight_floors := NULL, rate_floors := NULL, delta_floors := NULL,
    everything := true
) AS TABLE
WITH first_side AS (
    SELECT
        src, tgt, count, n_graphs, weight_sum::DOUBLE / count AS mean,
        greatest(weight_sq_sum::DOUBLE - weight_sum::DOUBLE ** 2 / count, weight_sq_sum::DOUBLE / 4194304) AS spread
    FROM a.edges
    WHERE src_layer BETWEEN coalesce(of_first_layer, 0) AND coalesce(of_last_layer, 255)
), second_side AS (
    SELECT
        src, tgt, count, n_graphs, weight_sum::DOUBLE / count AS mean,
        greatest(weight_sq_sum::DOUBLE - weight_sum::DOUBLE ** 2 / count, weight_sq_sum::DOUBLE / 4194304) AS spread
    FROM b.edges
    WHERE src_layer BETWEEN coalesce(of_first_layer, 0) AND coalesce(of_last_layer, 255)
), both_sides AS (
    SELECT
        coalesce(x.src, y.src) AS src, coalesce(x.tgt, y.tgt) AS tgt,
        x.count AS count_a, y.count AS count_b, x.n_graphs AS graphs_a, y.n_graphs AS graphs_b,
        x.mean AS mean_a, y.mean AS mean_b, y.mean - x.mean AS delta,
        x.count::DOUBLE AS na, y.count::DOUBLE AS nb,
        x.spread / nullif(x.count - 1, 0) AS var_a, y.spread / nullif(y.count - 1, 0) AS var_b,
        x.spread IS NULL OR y.spread IS NULL AS no_squares,
        exposure_a::DOUBLE AS ea, exposure_b::DOUBLE AS eb,
        CASE WHEN by_count THEN x.count ELSE x.n_graphs END::DOUBLE AS seen_a,
        CASE WHEN by_count THEN y.count ELSE y.n_graphs END::DOUBLE AS seen_b
    FROM first_side AS x FULL JOIN second_side AS y ON x.src = y.src AND x.tgt = y.tgt
), named AS (
    SELECT
        *,
        CASE
            WHEN na IS NULL THEN 'gained' WHEN nb IS NULL THEN 'lost'
            WHEN sign(mean_a) * sign(mean_b) < 0 THEN 'flipped'
            WHEN mean_a = mean_b AND na = nb AND var_a IS NOT DISTINCT FROM var_b THEN 'same' ELSE 'changed'
        END AS change,
        (nb IS NULL AND cut_b > 1) OR (na IS NULL AND cut_a > 1) AS below_cut,
        CASE WHEN no_squares THEN NULL
            WHEN var_a IS NULL THEN var_b * (1 + 1 / nb) WHEN var_b IS NULL THEN var_a * (1 + 1 / na)
            ELSE var_a / na + var_b / nb END AS error_sq,
        CASE WHEN no_squares THEN NULL WHEN var_a IS NULL THEN nb - 1 WHEN var_b IS NULL THEN na - 1
            ELSE (var_a / na + var_b / nb) ** 2
                / nullif((var_a / na) ** 2 / (na - 1) + (var_b / nb) ** 2 / (nb - 1), 0) END AS df,
        CASE WHEN na IS NULL THEN least(cut_a - 1, seen_b * ea / eb) ELSE seen_a END AS rate_a,
        CASE WHEN nb IS NULL THEN least(cut_b - 1, seen_a * eb / ea) ELSE seen_b END AS rate_b
    FROM both_sides
), tested AS (
    SELECT
        *,
        CASE WHEN na IS NOT NULL AND nb IS NOT NULL THEN delta / nullif(sqrt(error_sq), 0) END AS z,
        rate_b - (rate_a + rate_b) * eb / (ea + eb) AS surplus,
        (rate_a + rate_b) * (ea / (ea + eb)) * (eb / (ea + eb)) * (ea + eb - rate_a - rate_b) / (ea + eb - 1) AS rate_var,
        floor(log2(CASE WHEN na IS NULL THEN nb WHEN nb IS NULL THEN na ELSE least(na, nb) END))::INTEGER AS stratum
    FROM named
), scored AS (
    SELECT
        *,
        CASE WHEN rate_var > 0 THEN sign(surplus) * greatest(abs(surplus) - 0.5, 0) / sqrt(rate_var)
            WHEN rate_var IS NOT NULL THEN 0 END AS rate_z,
        CASE
            WHEN change IN ('gained', 'lost') THEN 'in one only'
            WHEN no_squares THEN 'squares not known'
            WHEN na = 1 AND nb = 1 THEN 'one observation on each side'
            WHEN z IS NULL THEN 'no weight on either side'
        END AS no_z
    FROM tested
), judged AS (
    SELECT
        *,
        CASE WHEN change IN ('gained', 'lost') THEN rate_z
            ELSE sign(z) * sqrt(df * ln(1 + z ** 2 / df)) * (8 * df + 1) / (8 * df + 3) END AS score,
        CASE WHEN change IN ('gained', 'lost') THEN (rate_floors::DOUBLE[])[1 + least(stratum, len(rate_floors::DOUBLE[]) - 1)]
            ELSE (weight_floors::DOUBLE[])[1 + least(stratum, len(weight_floors::DOUBLE[]) - 1)] END AS floor,
        (delta_floors::DOUBLE[])[1 + least(stratum, len(delta_floors::DOUBLE[]) - 1)] AS delta_floor
    FROM scored
), weighed AS (
    SELECT *, CASE WHEN score IS NOT NULL THEN abs(score) / floor ELSE abs(delta) / delta_floor END AS excess
    FROM judged
)
SELECT
    change, src, tgt, mean_a, mean_b, delta, z, df, no_z, rate_z, score, stratum, floor, delta_floor, excess,
    coalesce(excess >= 1, false) AS beyond, below_cut, count_a, count_b, graphs_a, graphs_b
FROM weighed
WHERE everything OR excess >= 1;
