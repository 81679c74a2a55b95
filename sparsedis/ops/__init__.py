"""Operations, one folder each: signature, mathematics and backends. ``common`` holds the shared code."""
