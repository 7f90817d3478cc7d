"""The third built-in core: exported AlexNets that answer together (paper table 2); it trains nothing."""
