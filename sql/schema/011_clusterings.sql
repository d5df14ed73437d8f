-- Several clusterings beside one another, one of them primary (metadata primary_clustering), and how closed a module is.

ALTER TABLE clusters ADD COLUMN conductance DOUBLE;
COMMENT ON COLUMN clusters.conductance IS '(outgoing + incoming) / (2 internal + outgoing + incoming): 0 = closed, 1 = no edge inside; NULL without edges';

ALTER TABLE partitions ADD COLUMN clustering VARCHAR;
ALTER TABLE partitions ADD COLUMN membership DOUBLE;
UPDATE partitions SET clustering = method;
COMMENT ON COLUMN partitions.clustering IS 'name of the clustering run (see clusterings)';
COMMENT ON COLUMN partitions.membership IS 'nmf: share of the neuron''s loadings on its component; NULL for other methods';

CREATE TABLE clusterings (
    clustering VARCHAR,
    method VARCHAR,
    parameters VARCHAR,
    seed BIGINT,
    edges BIGINT,
    neurons BIGINT,
    modules BIGINT,
    top_modules BIGINT,
    levels INTEGER,
    quality DOUBLE,
    quality_measure VARCHAR
);
COMMENT ON TABLE clusterings IS 'clustering runs, one row each; the neurons'' modules are in partitions, metadata primary_clustering names the one that neurons and clusters show';
COMMENT ON COLUMN clusterings.clustering IS 'its name';
COMMENT ON COLUMN clusterings.method IS 'infomap, leiden, louvain-hierarchical, kmeans, nmf, spectral, or import:<file name>';
COMMENT ON COLUMN clusterings.parameters IS 'its parameters as JSON';
COMMENT ON COLUMN clusterings.seed IS 'random seed; NULL for imports';
COMMENT ON COLUMN clusterings.edges IS 'edges that went in; NULL for imports';
COMMENT ON COLUMN clusterings.neurons IS 'neurons in a module';
COMMENT ON COLUMN clusterings.modules IS 'modules of every level';
COMMENT ON COLUMN clusterings.top_modules IS 'modules of level 1';
COMMENT ON COLUMN clusterings.levels IS 'deepest level';
COMMENT ON COLUMN clusterings.quality IS 'what the method optimised; NULL for imports';
COMMENT ON COLUMN clusterings.quality_measure IS 'codelength (bits a step, lower is better), modularity, inertia or reconstruction_error';
