-- Neurons that are strong in every graph can be left out of the nodes; a graph says which were.
ALTER TABLE graphs ADD COLUMN always_on INTEGER[];
COMMENT ON COLUMN graphs.always_on IS 'layer * d_mlp + neuron of the neurons that were not allowed as nodes; empty when all were';
