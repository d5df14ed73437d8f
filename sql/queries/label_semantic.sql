-- Neurons whose labels mean most nearly what a vector means, best first: score is the cosine of the better text.
-- of_vector: vector of a text by the model in the metadata (label_embedding_model), which Python's a.search(...,
-- mode='semantic') makes; any list of numbers of its dimension. label_vector gives that of a stored text.
-- of_field: 'all', or only texts shown as 'label', 'description', 'input_label' or 'output_label'.
-- layer_from, layer_to: layers, both included. in_cluster: a module path, the modules below it included.
-- of_type, of_interpretability, of_source: the neuron has an ok label of this type, interpretability, from this source
-- ('rule' also finds 'rule:...'). at_least_score: smallest cosine. max_rows: limit; NULL for all.
-- skip_rows: rows to leave out first.
-- of_pool: texts with the fewest differing signs of 384 coordinates whose cosine is computed (at least 2 max_rows).
-- Try: FROM label_semantic((SELECT vector FROM label_vector(0, 0)))
CREATE OR REPLACE MACRO label_semantic(
    of_vector, of_field := 'all', layer_from := 0, layer_to := 10000, in_cluster := NULL, of_type := NULL,
    of_interpretability := NULL, of_source := NULL, at_least_score := NULL, max_rows := 20, skip_rows := 0,
    of_pool := 512
) AS TABLE
WITH asked AS MATERIALIZED (
    SELECT of_vector::DOUBLE[] AS vector
), signs AS MATERIALIZED (
    SELECT list_transform(range(6), lambda w: rpad(array_to_string(list_transform(
        vector[64 * w + 1:64 * w + 64], lambda x: CASE WHEN x >= 0 THEN '1' ELSE '0' END), ''), 64, '0')::BIT::BIGINT) AS word
    FROM asked
), width AS MATERIALIZED (  -- packed ids are found in neurons ten times as fast as pairs of layer and neuron
    SELECT value::BIGINT AS d FROM metadata WHERE key = 'neurons_per_layer'
), listed AS MATERIALIZED (  -- neurons that pass the filters which need a look at them
    SELECT n.feature_id
    FROM neurons AS n
    WHERE (in_cluster IS NOT NULL OR of_type IS NOT NULL OR of_interpretability IS NOT NULL OR of_source IS NOT NULL)
      AND (in_cluster IS NULL OR n.cluster_path = in_cluster OR starts_with(n.cluster_path, in_cluster || '.'))
      AND (coalesce(of_type, of_interpretability, of_source) IS NULL OR n.feature_id IN (
          SELECT l.layer * (SELECT d FROM width) + l.neuron FROM labels AS l
          WHERE coalesce(of_type, of_interpretability, of_source) IS NOT NULL AND l.status = 'ok'
              AND (of_type IS NULL OR l.type = of_type)
              AND (of_interpretability IS NULL OR l.interpretability = of_interpretability)
              AND (of_source IS NULL OR l.source = of_source OR starts_with(l.source, of_source || ':'))))
), allowed AS MATERIALIZED (  -- texts of such neurons; empty without a filter
    SELECT u.text_id
    FROM label_text_uses AS u
    WHERE (of_field <> 'all' OR layer_from > 0 OR layer_to < 10000
          OR coalesce(in_cluster, of_type, of_interpretability, of_source) IS NOT NULL)
      AND (of_field = 'all' OR u.field = of_field) AND u.layer BETWEEN layer_from AND layer_to
      AND (coalesce(in_cluster, of_type, of_interpretability, of_source) IS NULL
          OR u.layer * (SELECT d FROM width) + u.neuron IN (SELECT feature_id FROM listed))
), near AS MATERIALIZED (
    SELECT t.text_id,
        bit_count(xor(t.signs_0, s.word[1]))::SMALLINT + bit_count(xor(t.signs_1, s.word[2]))::SMALLINT
        + bit_count(xor(t.signs_2, s.word[3]))::SMALLINT + bit_count(xor(t.signs_3, s.word[4]))::SMALLINT
        + bit_count(xor(t.signs_4, s.word[5]))::SMALLINT + bit_count(xor(t.signs_5, s.word[6]))::SMALLINT AS differing
    FROM label_texts AS t CROSS JOIN signs AS s
    WHERE (of_field = 'all' AND layer_from <= 0 AND layer_to >= 10000
          AND coalesce(in_cluster, of_type, of_interpretability, of_source) IS NULL)
       OR t.text_id IN (SELECT text_id FROM allowed)
    ORDER BY differing, t.text_id
    LIMIT CASE WHEN max_rows IS NULL THEN NULL ELSE greatest(of_pool, 2 * (max_rows + skip_rows)) END
), ranked AS MATERIALIZED (
    SELECT t.text_id, round(least(1, t.factor * list_inner_product(
            list_transform(string_split(t.code, ''), lambda c: (ascii(c) - 80)::DOUBLE), a.vector)
        / sqrt(list_inner_product(a.vector, a.vector))), 6) AS score
    FROM label_texts AS t CROSS JOIN asked AS a
    WHERE t.text_id IN (SELECT text_id FROM near)
), found AS (
    SELECT u.layer, u.neuron, max(r.score) AS score, arg_max(u.field, (r.score, u.field)) AS field
    FROM label_text_uses AS u JOIN ranked AS r ON r.text_id = u.text_id
    WHERE (of_field = 'all' OR u.field = of_field) AND u.layer BETWEEN layer_from AND layer_to
      AND (at_least_score IS NULL OR r.score >= at_least_score)
      AND (coalesce(in_cluster, of_type, of_interpretability, of_source) IS NULL
          OR u.layer * (SELECT d FROM width) + u.neuron IN (SELECT feature_id FROM listed))
    GROUP BY u.layer, u.neuron
    ORDER BY score DESC, u.layer, u.neuron
    LIMIT max_rows OFFSET skip_rows
)
SELECT
    f.layer, f.neuron, n.label, n.input_label, n.output_label, n.cluster_path, f.score, f.field, n.description,
    n.feature_id
FROM (SELECT *, layer * (SELECT d FROM width) + neuron AS id FROM found) AS f JOIN neurons AS n ON n.feature_id = f.id
ORDER BY f.score DESC, f.layer, f.neuron;
