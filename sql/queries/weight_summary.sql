-- How many parameters the model's files hold and how many of them are not 0: one row over all tensors counted.
-- of_layer: one layer; -1 for what is outside the layers (embeddings, last norm), NULL for the whole model. tensors:
-- floating tensors of the files; tied copies, masks and integers are not among them. mean_magnitude is over parameters.
-- Try: FROM weight_summary()
CREATE OR REPLACE MACRO weight_summary(of_layer := NULL) AS TABLE
SELECT
    1 - sum(non_zero_parameters)::DOUBLE / sum(total_parameters)::DOUBLE AS overall_sparsity,
    sum(total_parameters)::BIGINT AS total_parameters, sum(non_zero_parameters)::BIGINT AS non_zero_parameters,
    count(*) AS tensors, list_sum(list(l1_norm ORDER BY name)) / sum(total_parameters) AS mean_magnitude,
    min(min_magnitude) AS min_magnitude, max(max_magnitude) AS max_magnitude,
    list_sum(list(l1_norm ORDER BY name)) AS l1_norm, sqrt(list_sum(list(l2_norm ** 2 ORDER BY name))) AS l2_norm
FROM weight_stats
WHERE of_layer IS NULL OR layer = of_layer
HAVING count(*) > 0;
