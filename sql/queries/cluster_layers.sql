-- A module layer by layer: its members, how many have labels, and their share of its flow.
-- of_path: its path, for example '158.4'. flow_share is NULL when the module has no flow.
-- Try: FROM cluster_layers('1')
CREATE OR REPLACE MACRO cluster_layers(of_path) AS TABLE
WITH layers AS (
    SELECT layer, count(*) AS members, count(label) AS labelled,
        sum(round(infomap_flow * 1152921504606846976)::HUGEINT)::DOUBLE AS flow
    FROM neurons
    WHERE cluster_path = of_path OR starts_with(cluster_path, of_path || '.')
    GROUP BY layer
)
SELECT layer, members, labelled, flow / nullif(sum(flow) OVER (ORDER BY layer
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING), 0) AS flow_share
FROM layers
ORDER BY layer;
