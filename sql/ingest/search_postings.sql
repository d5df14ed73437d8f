-- Packed rows of the stems term_from .. term_to -> rows in the order of the index.
SELECT (place >> 32)::INTEGER AS term, (place & 4294967295)::INTEGER AS document, (mark & 65535)::USMALLINT AS forms,
    (counts & 65535)::USMALLINT AS occurrences, ((counts >> 16) & 16383)::USMALLINT AS in_description,
    ((counts >> 30) & 16383)::USMALLINT AS in_input_label, (counts >> 44)::USMALLINT AS in_output_label,
    (mark >> 16)::USMALLINT AS length
FROM search_occurrences
WHERE place BETWEEN ($term_from::BIGINT << 32) AND (($term_to::BIGINT + 1) << 32) - 1
ORDER BY place
