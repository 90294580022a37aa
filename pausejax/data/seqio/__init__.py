"""data/seqio"""
