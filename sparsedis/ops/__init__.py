"""Operations: one folder each, with its signature, its mathematics and its backends; ``common`` is what they share."""
