-- Strongest outgoing edges -> output labels by rule for layers $first to $last: which neurons this one drives or
-- suppresses, and what they are about (the target's clearest input label).
-- share = part of the neuron's outgoing flow that these three edges carry; the label is clearer where it is half or more.
WITH sized AS (
    SELECT max(try_cast(value AS INTEGER)) AS d_mlp FROM metadata WHERE key = 'neurons_per_layer'
), out_edges AS (
    SELECT e.src, sum(round(e.weight_abs_sum * 1099511627776)::HUGEINT) AS total,
           arg_max({'tgt': e.tgt, 'count': e.count, 'flow': e.weight_sum, 'size': e.weight_abs_sum},
                   (e.weight_abs_sum, -e.tgt::BIGINT), 3) AS best
    FROM edges e, sized WHERE e.src BETWEEN $first * d_mlp AND $last * d_mlp + d_mlp - 1 GROUP BY e.src
), single AS (
    SELECT src, total, unnest(best) AS e, generate_subscripts(best, 1) AS place FROM out_edges
), told AS (
    SELECT s.src, s.place, s.e.count AS n, s.e.flow AS flow, s.e.size AS size, s.total,
           CASE WHEN s.e.flow < 0 THEN 'against ' ELSE '' END || format('L{}/N{}', s.e.tgt // d_mlp, s.e.tgt % d_mlp)
           || coalesce(' (' || n.name || ')', '') AS target
    FROM single s CROSS JOIN sized LEFT JOIN rule_names n ON n.id = s.e.tgt
)
SELECT (src // d_mlp)::INTEGER AS layer, (src % d_mlp)::INTEGER AS neuron, 'output' AS "pass", 0 AS polarity,
       'feeds ' || array_to_string(list(target ORDER BY place), ', ') AS label,
       any_value(target) FILTER (place = 1) AS short_label,
       format('strongest direct edges by summed |flow|, {:.0f}% of all that leave it: ', least(100, 100 * (sum(size ORDER BY place)
           * 1099511627776) / nullif(any_value(total), 0)::DOUBLE))
           || array_to_string(list(format('{} ({} observations, sum {:.3g})', target, n, flow::DOUBLE) ORDER BY place), '; ')
           AS description,
       'routing' AS type, 'low' AS interpretability, 'rule' AS confidence, 'ok' AS status, 'rule:edges' AS source,
       'rule:edges/2' AS model, '2' AS prompt_version, 'rules' AS run
FROM told, sized GROUP BY src, d_mlp
ORDER BY layer, neuron
