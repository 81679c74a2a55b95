"""Operations: one folder each, with its backends; which backend runs is decided by ``registry``."""
