"""Files that people bring beside the lake, as streams."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from metarisk.domain import ConfigError
from metarisk.lake.columns import BATCH_ROWS


def read(file: Path) -> pa.RecordBatchReader:
    """A CSV or Parquet file as a stream of batches; a ConfigError for another kind of file."""
    if file.suffix == ".parquet":
        parquet = pq.ParquetFile(file)
        return pa.RecordBatchReader.from_batches(parquet.schema_arrow, parquet.iter_batches(BATCH_ROWS))
    if file.suffix == ".csv":
        return csv.open_csv(file)
    raise ConfigError(f"{file.name} is neither .parquet nor .csv", remedy="convert it to Parquet or CSV")
