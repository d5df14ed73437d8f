-- One module in one row: size, layers, weights, conductance, and how much of it has labels.
-- of_path: its path, for example '158.4'.
-- conductance = (outgoing + incoming) / (2 internal + outgoing + incoming), computed where none is stored. parts = modules one level below.
-- Try: FROM cluster_card('1')
CREATE OR REPLACE MACRO cluster_card(of_path) AS TABLE
SELECT
    c.cluster_path, c.level, c.label, c.size, c.layer_min, c.layer_max, c.median_layer, c.flow,
    c.internal_weight, c.outgoing_weight, c.incoming_weight,
    coalesce(c.conductance, (c.outgoing_weight + c.incoming_weight)
        / nullif(2 * c.internal_weight + c.outgoing_weight + c.incoming_weight, 0)) AS conductance,
    (SELECT count(*) FROM clusters AS k WHERE k.level = c.level + 1 AND starts_with(k.cluster_path, of_path || '.'))
        AS parts,
    (SELECT count(n.label) FROM neurons AS n
     WHERE n.cluster_path = of_path OR starts_with(n.cluster_path, of_path || '.')) AS labelled
FROM clusters AS c
WHERE c.cluster_path = of_path;
