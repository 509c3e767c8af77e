"""Other data into the same events and dense spans: images, genomes. Each adapter reads its files into the tables of a
source (`format:` in its source.yaml), which then go through the mapping engine as any other.
"""
