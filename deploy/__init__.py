"""Everything that starts Verihook: a real Kafka, its topics, the whole pipeline locally."""
