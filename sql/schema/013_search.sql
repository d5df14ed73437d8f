-- The word index of the texts that neurons show (label, description, input_label, output_label); see label_search.

CREATE TABLE search_words (
    word VARCHAR,
    term INTEGER,
    form UTINYINT,
    letters UINTEGER,
    documents INTEGER
);
COMMENT ON TABLE search_words IS 'word index: the vocabulary, every word once and the stems that are no words, sorted by word';
COMMENT ON COLUMN search_words.word IS 'lower-case run of letters and digits as it stands in a text';
COMMENT ON COLUMN search_words.term IS 'its stem: term of search_terms';
COMMENT ON COLUMN search_words.form IS 'which inflection of the stem, 0 = in most documents; the 16th and later ones are all 15';
COMMENT ON COLUMN search_words.letters IS 'bit unicode(c) % 32 of each character c: words within distance d differ in at most 2 d bits';
COMMENT ON COLUMN search_words.documents IS 'neurons whose texts hold this very word; 0 for a stem that is no word itself';

CREATE TABLE search_terms (
    term INTEGER,
    stem VARCHAR,
    documents INTEGER,
    in_label INTEGER,
    in_description INTEGER,
    in_input_label INTEGER,
    in_output_label INTEGER,
    peaks DOUBLE[]
);
COMMENT ON TABLE search_terms IS 'word index: the stems (Snowball English), sorted by term';
COMMENT ON COLUMN search_terms.term IS 'number of the stem, from 0 in alphabetical order';
COMMENT ON COLUMN search_terms.stem IS 'what its words have in common';
COMMENT ON COLUMN search_terms.documents IS 'neurons with the stem in any of the four fields';
COMMENT ON COLUMN search_terms.in_label IS 'neurons with the stem in label';
COMMENT ON COLUMN search_terms.in_description IS 'neurons with the stem in description';
COMMENT ON COLUMN search_terms.in_input_label IS 'neurons with the stem in input_label';
COMMENT ON COLUMN search_terms.in_output_label IS 'neurons with the stem in output_label';
COMMENT ON COLUMN search_terms.peaks IS 'BM25 score over idf (all fields, equal weights) of the 1st, 2nd, 4th, 8th ... 128th best document: bounds that let a search pass over most of a common word''s documents';

CREATE TABLE search_postings (
    term INTEGER,
    document INTEGER,
    forms USMALLINT,
    occurrences USMALLINT,
    in_description USMALLINT,
    in_input_label USMALLINT,
    in_output_label USMALLINT,
    length USMALLINT
);
COMMENT ON TABLE search_postings IS 'word index: which neurons have a stem, sorted by term, document';
COMMENT ON COLUMN search_postings.term IS 'stem';
COMMENT ON COLUMN search_postings.document IS 'neuron: feature_id';
COMMENT ON COLUMN search_postings.forms IS 'bit f is set when inflection f (search_words.form) occurs';
COMMENT ON COLUMN search_postings.occurrences IS 'how often the stem occurs in the four fields together; what the next three leave is in label';
COMMENT ON COLUMN search_postings.in_description IS 'occurrences in description';
COMMENT ON COLUMN search_postings.in_input_label IS 'occurrences in input_label';
COMMENT ON COLUMN search_postings.in_output_label IS 'occurrences in output_label';
COMMENT ON COLUMN search_postings.length IS 'words of the neuron''s four fields together';

CREATE TABLE search_documents (
    document INTEGER,
    in_label INTEGER,
    in_description INTEGER,
    in_input_label INTEGER,
    in_output_label INTEGER
);
COMMENT ON TABLE search_documents IS 'word index: how long the texts of each neuron are, sorted by document; neurons without a word are left out';
COMMENT ON COLUMN search_documents.document IS 'neuron: feature_id';
COMMENT ON COLUMN search_documents.in_label IS 'words of label';
COMMENT ON COLUMN search_documents.in_description IS 'words of description';
COMMENT ON COLUMN search_documents.in_input_label IS 'words of input_label';
COMMENT ON COLUMN search_documents.in_output_label IS 'words of output_label';

CREATE TABLE search_fields (
    field VARCHAR,
    documents BIGINT,
    words BIGINT
);
COMMENT ON TABLE search_fields IS 'word index: sizes of what is searched, one row per field and one for all of them';
COMMENT ON COLUMN search_fields.field IS 'label, description, input_label, output_label, or all';
COMMENT ON COLUMN search_fields.documents IS 'neurons with a word in the field';
COMMENT ON COLUMN search_fields.words IS 'words of those texts';
