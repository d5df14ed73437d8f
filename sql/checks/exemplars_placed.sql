-- An exemplar's neuron and context exist, its position is inside the context, its window covers the position and shows the activation there.
SELECT e.layer, e.neuron, e.polarity, e.stratum, e.rank, e.context_id, e.position, e.window_start
FROM exemplars AS e
LEFT JOIN contexts AS c ON c.context_id = e.context_id
LEFT JOIN neurons AS n ON n.layer = e.layer AND n.neuron = e.neuron
WHERE n.layer IS NULL OR c.context_id IS NULL OR e.position IS NULL OR e.position < 0
   OR e.position >= len(c.token_ids)
   OR e.window_start < 0 OR e.window_start > e.position
   OR e.window_start + len(e."window") <= e.position OR e.window_start + len(e."window") > len(c.token_ids)
   OR abs(e."window"[e.position - e.window_start + 1] - e.activation) > 1e-3 * abs(e.activation) + 1e-6
ORDER BY ALL;
