-- What the texts that neurons show mean, as vectors; see label_semantic. Written by "atlas label embed".

CREATE TABLE label_texts (
    text_id INTEGER,
    text VARCHAR,
    factor FLOAT,
    code VARCHAR,
    signs_0 BIGINT,
    signs_1 BIGINT,
    signs_2 BIGINT,
    signs_3 BIGINT,
    signs_4 BIGINT,
    signs_5 BIGINT
);
COMMENT ON TABLE label_texts IS 'every distinct text that neurons show, with its vector x of length 1 by the model named in the metadata (label_embedding_model)';
COMMENT ON COLUMN label_texts.text_id IS 'number of the text, from 0';
COMMENT ON COLUMN label_texts.text IS 'the text';
COMMENT ON COLUMN label_texts.factor IS '1 / (v . x): the cosine with a vector q of length 1 is (v . q) * factor';
COMMENT ON COLUMN label_texts.code IS 'v, one character a coordinate: # to } stand for -45 to 45, as round(45 x / max |x|)';
COMMENT ON COLUMN label_texts.signs_0 IS 'coordinates 1-64 of x, from the highest bit: set where the coordinate is not negative';
COMMENT ON COLUMN label_texts.signs_1 IS 'coordinates 65-128; bits without a coordinate are 0';
COMMENT ON COLUMN label_texts.signs_2 IS 'coordinates 129-192';
COMMENT ON COLUMN label_texts.signs_3 IS 'coordinates 193-256';
COMMENT ON COLUMN label_texts.signs_4 IS 'coordinates 257-320';
COMMENT ON COLUMN label_texts.signs_5 IS 'coordinates 321-384; signs of later ones are not kept';

CREATE TABLE label_text_uses (
    text_id INTEGER,
    field VARCHAR,
    layer INTEGER,
    neuron INTEGER
);
COMMENT ON TABLE label_text_uses IS 'which neurons show a text of label_texts, sorted by text_id, field, layer, neuron';
COMMENT ON COLUMN label_text_uses.text_id IS 'text of label_texts';
COMMENT ON COLUMN label_text_uses.field IS 'where: label, description, input_label or output_label';
COMMENT ON COLUMN label_text_uses.layer IS 'layer, from 0';
COMMENT ON COLUMN label_text_uses.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
