-- Every method's score of every neuron side by side, and the ranks over all layers.

ALTER TABLE pruning ADD COLUMN fisher DOUBLE;
ALTER TABLE pruning ADD COLUMN wifv DOUBLE;
ALTER TABLE pruning ADD COLUMN taylor_abs DOUBLE;
ALTER TABLE pruning ADD COLUMN wanda DOUBLE;
ALTER TABLE pruning ADD COLUMN pruning_score_global DOUBLE;
COMMENT ON COLUMN pruning.fisher IS 'half of mean ((a - mean a) g)^2 + Var(a) mean g^2 over the calibration positions (g as in neuron_stats.grad_s_g2): the Fisher estimate of twice the KL of mean ablation, with g^2 halfway between that of the position and that of any position; nats; NULL without gradients';
COMMENT ON COLUMN pruning.wifv IS 'Var(a) ||w_out||^2 (weighted input feature variance, FLAP); NULL without activations';
COMMENT ON COLUMN pruning.taylor_abs IS 'mean of |a g| over the calibration positions, a first-order change taken position by position: the mean of a g itself is the slope in the size of the out column, near 0 in a trained model; for comparison; NULL without gradients';
COMMENT ON COLUMN pruning.wanda IS 'sqrt(mean a^2) ||w_out||: Wanda''s |w| ||a|| of each weight of the out column, joined by the L2 norm; for comparison; NULL without activations';
COMMENT ON COLUMN pruning.pruning_score_global IS 'as pruning_score, but the rank is among the neurons of all layers';
COMMENT ON COLUMN pruning.importance IS 's_i of score_method: its column, weight_magnitude for weights; 0 for a neuron that never varies by more than float32 rounding';
COMMENT ON COLUMN pruning.pruning_score IS '1 - (ascending rank of importance - 1)/(n - 1) within the layer, ties by index; higher = safer to prune; NULL in a layer with one scored neuron';
COMMENT ON COLUMN pruning.score_method IS 'method behind importance and the pruning scores: fisher, wifv or weights';
COMMENT ON COLUMN pruning.activation_variance IS 'variance of a over the calibration positions; 0 below float32 rounding of a';
COMMENT ON COLUMN neuron_stats.grad_s_g2 IS 'sum of g^2, g = dL/da; L = sum over predicted positions and tokens v of r_v sqrt(p_v) log p_v, r random signs: E (d g)^2 is the Fisher quadratic form of a change d (before schema 20: L = negative log likelihood of the text)';
