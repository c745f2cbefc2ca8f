"""Work over folders of Parquet, divided into shards that several processes work on."""
