-- What each module of a level sends and receives between each two layers: the margins that quotient's chance keeps.
-- of_level: as in quotient. cluster_path is NULL for the neurons outside every module.
-- sent: true for what leaves the module's neurons of src_layer, false for what reaches those of tgt_layer; what stays
-- inside counts in both. weight = sum of mean |F|, weight_sq = sum of its squares over the edges.
-- Try: FROM quotient_margins(of_level := 1)
CREATE OR REPLACE MACRO quotient_margins(of_level := 1) AS TABLE
WITH places AS MATERIALIZED (
    SELECT feature_id::INTEGER AS id, array_to_string(string_split(cluster_path, '.')[1:of_level], '.') AS path FROM neurons
), paths AS MATERIALIZED (
    SELECT path, row_number() OVER (ORDER BY path NULLS LAST)::INTEGER AS k FROM (SELECT DISTINCT path FROM places)
), numbered AS MATERIALIZED (
    SELECT n.id, p.k FROM places AS n JOIN paths AS p ON p.path IS NOT DISTINCT FROM n.path
), sums AS (
    SELECT true AS sent, n.k, e.src_layer, e.tgt_layer,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS weight,
        sum(round((e.weight_abs_sum::DOUBLE / e.count) ** 2 * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS weight_sq
    FROM edges AS e JOIN numbered AS n ON n.id = e.src GROUP BY n.k, e.src_layer, e.tgt_layer
    UNION ALL
    SELECT false, n.k, e.src_layer, e.tgt_layer,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416,
        sum(round((e.weight_abs_sum::DOUBLE / e.count) ** 2 * 1152921504606846976)::HUGEINT) / 1152921504606846976
    FROM edges AS e JOIN numbered AS n ON n.id = e.tgt GROUP BY n.k, e.src_layer, e.tgt_layer
)
SELECT p.path AS cluster_path, s.sent, s.src_layer, s.tgt_layer, s.weight, s.weight_sq
FROM sums AS s JOIN paths AS p ON p.k = s.k
ORDER BY s.k, s.sent DESC, s.src_layer, s.tgt_layer;
