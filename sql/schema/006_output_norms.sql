-- calibration means of models with a norm on the MLP's output (OLMo-2, OLMo-3, Gemma-2)

ALTER TABLE neuron_stats ADD COLUMN calib_out DOUBLE;
COMMENT ON COLUMN neuron_stats.calib_out IS 'mean of r_s, the factor of the norm on the MLP''s output, the same for all neurons of a layer: wiring strengths of this neuron as a source are multiplied by it; NULL where there is no such norm';
COMMENT ON COLUMN neuron_stats.calib_gate IS 'mean of r u act''(g): A of the calibrated wiring strength; NULL for ungated MLPs; r = factor of the norm before the MLP, 1 where there is none';
COMMENT ON COLUMN neuron_stats.calib_up IS 'mean of r act(g): B of the calibrated wiring strength (ungated: mean of r act''(z)); r as in calib_gate';
