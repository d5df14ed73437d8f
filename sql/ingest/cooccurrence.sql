-- Neurons of one layer -> the $keep neurons that share most graphs with each, with lift over independence.
WITH totals AS (
    SELECT layer, neuron, count(*) AS graphs FROM neuron_graphs GROUP BY layer, neuron
), pairs AS (
    SELECT a.layer, a.neuron, b.layer AS other_layer, b.neuron AS other_neuron, count(*)::INTEGER AS n_graphs
    FROM neuron_graphs a JOIN neuron_graphs b USING (graph_id)
    WHERE a.layer = $of_layer AND (a.layer, a.neuron) <> (b.layer, b.neuron)
    GROUP BY ALL HAVING count(*) >= 2
), lifted AS (
    SELECT p.*, p.n_graphs::DOUBLE * (SELECT count(*) FROM graphs) / (t.graphs * o.graphs) AS lift
    FROM pairs p
    JOIN totals t ON p.layer = t.layer AND p.neuron = t.neuron
    JOIN totals o ON p.other_layer = o.layer AND p.other_neuron = o.neuron
)
SELECT layer, neuron, row_number() OVER strongest::SMALLINT AS rank, other_layer, other_neuron, n_graphs, lift
FROM lifted
WINDOW strongest AS (PARTITION BY layer, neuron ORDER BY n_graphs DESC, lift DESC, other_layer, other_neuron)
QUALIFY row_number() OVER strongest <= $keep
ORDER BY layer, neuron, rank
