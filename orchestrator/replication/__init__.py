"""One study on several data sets: judged as one family, shown on one page."""
