"""One file a step: plain functions, references to Parquet in, references out."""
