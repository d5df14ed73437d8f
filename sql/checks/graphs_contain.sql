-- Graph ids are unique, and every neuron listed in a graph and its graph exist.
SELECT graph_id, NULL::INTEGER AS layer, NULL::INTEGER AS neuron, 'several rows' AS fault
FROM graphs GROUP BY graph_id HAVING count(*) > 1
UNION ALL
SELECT m.graph_id, m.layer, m.neuron, 'no such graph or neuron' AS fault
FROM neuron_graphs AS m
LEFT JOIN graphs AS g ON g.graph_id = m.graph_id
LEFT JOIN neurons AS n ON n.layer = m.layer AND n.neuron = m.neuron
WHERE g.graph_id IS NULL OR n.layer IS NULL
ORDER BY ALL;
