"""The gateway proves who sent a delivery and stores its untouched bytes in Kafka."""
