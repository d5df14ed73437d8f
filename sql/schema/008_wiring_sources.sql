-- Wiring lists may come from the caches of earlier tools.
COMMENT ON COLUMN wiring.polarity_source IS 'calibrated (activation statistics), weights_only, or lab_cache (imported layer_N.json files: strengths are theirs, c_up and c_gate as they gave them)';
