-- Strongest outgoing edges -> output labels by rule: which neurons this one drives or suppresses, and what they are
-- about (the target's first input label by rule).
WITH names AS (
    SELECT layer, neuron, min_by(short_label, (CASE interpretability WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, -polarity)) AS name
    FROM labels WHERE "pass" = 'input' GROUP BY layer, neuron
), sized AS (
    SELECT max(try_cast(value AS INTEGER)) AS d_mlp FROM metadata WHERE key = 'neurons_per_layer'
), out_edges AS (
    SELECT e.src, e.tgt, e.weight_sum, e.weight_abs_sum, e.count,
           row_number() OVER (PARTITION BY e.src ORDER BY e.weight_abs_sum DESC, e.tgt) AS place,
           e.tgt // d_mlp AS tgt_layer, e.tgt % d_mlp AS tgt_neuron
    FROM edges e, sized
), told AS (
    SELECT src, place, (CASE WHEN weight_sum < 0 THEN 'against ' ELSE '' END)
           || format('L{}/N{}', tgt_layer, tgt_neuron) || coalesce(' (' || name || ')', '') AS target,
           count, weight_sum
    FROM out_edges LEFT JOIN names ON names.layer = tgt_layer AND names.neuron = tgt_neuron WHERE place <= 3
)
SELECT (src // d_mlp)::INTEGER AS layer, (src % d_mlp)::INTEGER AS neuron, 'output' AS "pass", 0 AS polarity,
       'feeds ' || array_to_string(list(target ORDER BY place), ', ') AS label,
       any_value(target) FILTER (place = 1) AS short_label,
       'strongest direct edges by summed |flow|: '
           || array_to_string(list(format('{} ({} observations, sum {:.3g})', target, count, weight_sum::DOUBLE) ORDER BY place), '; ')
           AS description,
       'routing' AS type, 'low' AS interpretability, 'rule' AS confidence, 'ok' AS status, 'rule:edges' AS source,
       'rule:edges/1' AS model, '1' AS prompt_version, 'rules' AS run
FROM told, sized GROUP BY src, d_mlp
ORDER BY layer, neuron
